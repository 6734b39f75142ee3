"""CIFAR-10 (Krizhevsky, 2009) in the Parquet layout of the Hugging Face hub."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from frugalkd.data.images import ImageData
from frugalkd.data.root import NAME_A_ROOT, data_root, located
from frugalkd.data.splits import Splits
from frugalkd.errors import DataError
from frugalkd.files import StrPath
from frugalkd.files.parsing import most_unpacked
from frugalkd.runtime.imports import require_extra

if TYPE_CHECKING:
    import pyarrow.parquet

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

_SIDE = 32
_ROWS_AT_ONCE = 100  # few: a file may repeat one picture without holding it more than once


def load_cifar10(root: StrPath | None = None) -> Splits:
    """CIFAR-10 (50,000 / 10,000, 3x32x32) from ``<root>/cifar10/{train,test}.parquet``.

    Columns: ``img`` (struct of ``bytes``, a PNG, and ``path``) and ``label`` (0 .. 9). Decoding
    takes about 60 microseconds an image. Raises DataError for files that are missing or wrong, and
    where the extra ``parquet`` (pyarrow, pillow) is not installed.
    """
    folder = data_root(root) / "cifar10"
    return Splits(*(_read(folder / f"{part}.parquet") for part in ("train", "test")))


def _read(path: Path) -> ImageData:
    needs = f"reading {path.name} needs pyarrow and pillow"
    require_extra("parquet", needs, DataError, "pyarrow", "PIL")
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path} is not there: put the Parquet file there, {NAME_A_ROOT}")
    try:
        with pq.ParquetFile(path) as file, located(path):
            _check_layout(file, path.stat().st_size)
            pixels, labels = _decode(file)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read ({reason}): get the file again") from error
    images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, _SIDE, _SIDE, 3)
    with located(path):
        return ImageData(
            torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(labels, dtype=torch.int64),
            CIFAR10_CLASSES,
            mean=CIFAR10_MEAN,
            std=CIFAR10_STD,
        )


def _check_layout(file: pyarrow.parquet.ParquetFile, size: int) -> None:
    import pyarrow as pa

    schema = file.schema_arrow
    types = {name: schema.field(name).type for name in schema.names}
    image, label = types.get("img", pa.null()), types.get("label", pa.null())
    if not (
        isinstance(image, pa.StructType)
        and image.get_field_index("bytes") >= 0
        and pa.types.is_binary(image.field("bytes").type)
        and pa.types.is_integer(label)
    ):
        columns = ", ".join(f"{name}: {kind}" for name, kind in types.items())
        raise DataError(
            f"the columns are ({columns}): need img (struct of bytes, path) and label (integer)"
        )
    if file.metadata.num_rows * 3 * _SIDE**2 > most_unpacked(size):
        raise DataError(f"claims {file.metadata.num_rows} images in {size} bytes: get it again")


def _decode(file: pyarrow.parquet.ParquetFile) -> tuple[bytearray, list[int]]:
    """The pixels (row, height, width, channel) and the labels of the whole file."""
    from PIL import Image

    pixels, labels = bytearray(), []
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=["img", "label"]):
        first = len(labels)
        labels += batch.column("label").to_pylist()
        for row, png in enumerate(batch.column("img").field("bytes").to_pylist(), start=first):
            if png is None or labels[row] is None:
                raise DataError(f"row {row} has no image or no label: get the file again")
            try:
                with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
                    # The size comes from the header alone, before any pixel is decoded.
                    if image.size != (_SIDE, _SIDE) or image.mode != "RGB":
                        raise DataError(
                            f"row {row} is a {image.mode} image of {image.size}: need RGB 32x32"
                        )
                    pixels += image.tobytes()
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise DataError(
                    f"the image in row {row} cannot be decoded: get the file again"
                ) from error
    return pixels, labels
