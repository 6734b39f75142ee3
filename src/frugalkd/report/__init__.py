"""Results as one HTML page that needs nothing else: ``frugalkd report``."""

from frugalkd.report.collect import collect
from frugalkd.report.page import LARGEST, headline_of, make_page

__all__ = ["LARGEST", "collect", "headline_of", "make_page"]
