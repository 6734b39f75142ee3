"""The folder that keeps soft targets: format, checks, writing and reading. See docs/store.md."""

from frugalkd.teachers.store._header import Header, read_header
from frugalkd.teachers.store._store import Store, create_store, size_text

__all__ = ["Header", "Store", "create_store", "read_header", "size_text"]
