"""Texts, and rows of tokens, that the tests of this room use."""

from __future__ import annotations

from frugalkd.language.tiny import tiny_splits

TEXTS = [part for part in tiny_splits()[1].split("\n\n") if part][:40]
