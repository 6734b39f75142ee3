"""Results as one HTML page that needs nothing else: ``frugalkd report``."""

from frugalkd.report.collect import collect
from frugalkd.report.page import LARGEST, make_page

__all__ = ["LARGEST", "collect", "make_page"]
