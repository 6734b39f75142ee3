"""Stored features: beside the logits, a store for each of the teacher's modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from frugalkd.errors import ModelError, TargetsError
from frugalkd.models.features import Shape, find_paths
from frugalkd.teachers.encodings.values import Values
from frugalkd.teachers.store import FILE, Header, Store
from frugalkd.teachers.targets import NO_FEATURES

FOLDER = "features"
"""Of a store's folder, where its features are."""


def feature_folder(store: Path, path: str) -> Path:
    """Where the store at ``store`` keeps the features of the module ``path``."""
    return store / FOLDER / quote(path, safe="")


def feature_header(logits: Header, path: str, shape: Shape) -> Header:
    """Of the features, (rows, \\*``shape``), that belong to the ``logits``."""
    about = {**logits.about, "feature": path, "shape": " ".join(map(str, shape))}
    width = math.prod(shape)
    return Header(logits.samples, logits.views, width, Values(), about, logits.shards)


class FeatureStores:
    """The features that lie in a store's folder.

    Attributes:
        stores: by module path.

    Raises:
        TargetsError: one is damaged, or belongs to other logits than ``header`` says.
    """

    def __init__(self, folder: Path, header: Header):
        self.folder = folder
        self.stores: dict[str, Store] = {}
        for path in sorted((folder / FOLDER).glob(f"*/{FILE}")):
            store = Store(path.parent)
            name = store.header.about.get("feature", "")
            store.header.refuse_other(
                feature_header(header, name, shape_of(store.header)), path.parent
            )
            self.stores[name] = store

    def shapes(self, patterns: Sequence[str]) -> dict[str, Shape]:
        """As ``Targets.feature_shapes``; a glob means those that are stored."""
        if not self.stores:
            raise TargetsError(NO_FEATURES)
        try:
            paths = find_paths(patterns, self.stores, "the store")
        except ModelError as error:
            raise TargetsError(
                f"{self.folder} holds features of {', '.join(self.stores)} alone; {error}; add "
                "others by 'frugalkd store --features PATH'"
            ) from None
        return {path: shape_of(self.stores[path].header) for path in paths}

    @property
    def disk_bytes(self) -> int:
        return sum(store.header.disk_bytes for store in self.stores.values())


def shape_of(header: Header) -> Shape:
    """Of one row; of logits (classes,). Raises TargetsError where a feature's is damaged."""
    said = header.about.get("shape")
    if said is None:
        return (header.classes,)
    sizes = said.split(" ")
    if not all(size.isdecimal() and len(size) < 9 for size in sizes):
        raise TargetsError(f"features of shape {said[:50]!r} are damaged: delete them")
    return tuple(map(int, sizes))
