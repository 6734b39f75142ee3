"""Results as one HTML page that needs nothing else: ``frugalkd report``."""

from frugalkd.experiments.report.collect import collect
from frugalkd.experiments.report.page import LARGEST, headline_of, make_page

__all__ = ["LARGEST", "collect", "headline_of", "make_page"]
