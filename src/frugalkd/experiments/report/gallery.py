"""The samples at both ends, read from the data when the page is made."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import FrugalKDError, RunFolderError
from frugalkd.experiments.report.blocks import short
from frugalkd.experiments.runs.schema import LedgerSummary
from frugalkd.files.parsing import one_line
from frugalkd.runtime.imports import Allowed

NOTHING = Allowed()
LARGEST = 1_000_000
"""Bytes of a page's pictures and texts."""

_SIZES = (96, 64, 48, 32, 16)
_TEXT = 280
"""Characters of a text that are shown."""

Shown = dict[int, tuple[str, str]] | str
"""id -> (picture as a data URL, text), one of both empty; or why none can be shown."""

Pictures = Callable[[LedgerSummary], Shown]
"""Shows the samples at both ends of a summary."""


def pictures_of(
    summary: LedgerSummary, recipe: dict[str, Any], allowed: Allowed = NOTHING
) -> Shown:
    """The samples at both ends of ``summary``, and its suspects, from the data that ``recipe``, as
    resolved, names, where ``allowed`` permits it. Every failure is a reason, not an error."""
    from frugalkd.data import data_digest
    from frugalkd.experiments.runs.from_recipe import data_of_run

    samples = (*summary.most, *summary.least, *summary.suspects)
    ids = list(dict.fromkeys(sample.id for sample in samples))
    try:
        data: Any = data_of_run(recipe, "the recipe", allowed).train
    except RunFolderError:
        return "the recipe is of another version of frugalkd"
    except FrugalKDError as error:
        return one_line(error, 300)
    try:
        if len(data) != summary.samples or (summary.data and data_digest(data) != summary.data):
            return "the data here are not those that the ledger is of"
        return _shown(data, ids)
    except Exception as error:  # a user's data set may raise anything
        return f"the data cannot be read: {one_line(error, 200)}"


def _shown(data: Any, ids: Sequence[int]) -> Shown:
    from frugalkd.data import TableData, TextData

    texts = data.texts(ids) if isinstance(data, TextData | TableData) else None
    samples: list[Any] = [_sample(data, id) for id in ids] if texts is None else list(texts)
    if all(isinstance(sample, str) for sample in samples):
        said = [short(" ".join(text.split()), _TEXT).strip() for text in samples]
        return {id: ("", text) for id, text in zip(ids, said, strict=True)}
    if not all(isinstance(sample, np.ndarray) for sample in samples):
        return "they are neither pictures nor texts"
    for size in _SIZES:
        urls = [_png(pixels, size) for pixels in samples]
        if sum(map(len, urls)) <= LARGEST:
            return {id: (url, "") for id, url in zip(ids, urls, strict=True)}
    return "they are too large"


def _sample(data: Any, id: int) -> Any:
    """Pixels uint8 (height, width, 1 or 3), a text, or None."""
    from frugalkd.data import Pictures

    if isinstance(data, Pictures):
        return _channels_last(data.pixels(data.rows([id]))[0].numpy())
    found = data[id]
    while isinstance(found, (tuple, list)) and found:
        found = found[0]
    if isinstance(found, dict):
        found = next((found[key] for key in ("text", "sentence", "image") if key in found), None)
    if found is None or isinstance(found, str):
        return found
    pixels = np.asarray(found)
    match pixels.shape:
        case (1 | 3, _, _):
            return _channels_last(_stretched(pixels))
        case (_, _, 1 | 3):
            return _stretched(pixels)
        case (height, width) if min(height, width) >= 4:
            return _stretched(pixels)[..., None]
    return None


def _channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels[:3] if len(pixels) >= 3 else pixels[:1]).transpose(1, 2, 0)


def _stretched(pixels: NDArray) -> NDArray[np.uint8]:
    """From black to white, however the data are normalised."""
    if pixels.dtype == np.uint8:
        return pixels
    values = np.nan_to_num(pixels.astype(np.float64))
    low, span = values.min(), float(np.ptp(values))
    return np.round(255 * (values - low) / (span or 1.0)).astype(np.uint8)


def _png(pixels: NDArray[np.uint8], size: int) -> str:
    """The data URL of a PNG, no side longer than ``size``."""
    from PIL import Image

    image, file = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), BytesIO()
    image.thumbnail((size, size), Image.Resampling.BOX)
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
