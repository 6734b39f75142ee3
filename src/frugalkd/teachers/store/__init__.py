"""The folder that keeps soft targets: format, checks, writing and reading. See docs/store.md."""

from frugalkd.teachers.store._header import FILE, Header, read_header, shard_of
from frugalkd.teachers.store._store import Store, create_store, size_text

__all__ = ["FILE", "Header", "Store", "create_store", "read_header", "shard_of", "size_text"]
