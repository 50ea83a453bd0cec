"""CIFAR-10 as Parquet, with the columns of the public dataset ``uoft-cs/cifar10``.

``img`` is a struct whose field ``bytes`` is a PNG or JPEG file, ``label`` an integer; other columns are left alone.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from .images import CIFAR10, SPLITS, checked

if TYPE_CHECKING:
    import pyarrow

__all__ = ["find_parquet", "read_parquet"]

ROWS_AT_A_TIME = 1_000


def find_parquet(folder: Path) -> dict[str, list[Path]] | None:
    """The Parquet files of each split, in a folder itself or in its ``plain_text`` or ``data``; None if there are none.

    Raises:
        FileNotFoundError: If there are files of one split only.
    """
    for place in (folder, folder / "plain_text", folder / "data"):
        files = {split: sorted(place.glob(f"{split}-*.parquet")) for split in SPLITS}
        missing = [split for split in SPLITS if not files[split]]
        if len(missing) == 1:
            raise FileNotFoundError(f"{place} holds one split of CIFAR-10 only: no file {missing[0]}-*.parquet")
        if not missing:
            return files
    return None


def read_parquet(files: Mapping[str, Iterable[Path]], source: str, per_class: Mapping[str, int]) -> CIFAR10:
    """Decode all images (a few seconds) and check the result.

    Args:
        files: The files of each split, in order.
        source: As in :func:`.images.checked`.
        per_class: As there.

    Raises:
        ImportError: If ``pyarrow`` is not installed.
        ValueError: If a file cannot be read, a picture is broken, or the result is not CIFAR-10.
    """
    splits = {split: _read_split(split, files[split], 10 * per_class[split]) for split in SPLITS}
    return checked(splits, source, per_class)


def _read_split(split: str, files: Iterable[Path], n_expected: int) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    with tqdm(total=n_expected, desc=f"reading CIFAR-10, {split}", unit=" images", leave=False) as bar:
        for file in files:
            for some_images, some_labels in _read_file(file):
                images.append(some_images)
                labels.append(some_labels)
                bar.update(len(some_images))
    if not images:
        return torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    return torch.cat(images), torch.cat(labels)


def _read_file(file: Path) -> Iterator[tuple[Tensor, Tensor]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f'{file.name} needs pyarrow: pip install "diffusion-ebm-course[train]"') from error
    try:
        with parquet.ParquetFile(file) as table:
            _check_columns(table.schema_arrow, file)
            row = 0
            for batch in table.iter_batches(ROWS_AT_A_TIME, columns=["img", "label"]):
                yield _decode(_pictures(batch), row, file), _labels(batch, file)
                row += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {file} ({error}): remove it, and fetch it again") from error


def _check_columns(schema: pyarrow.Schema, file: Path) -> None:
    from pyarrow import types

    kinds = {field.name: field.type for field in schema}
    picture, label = kinds.get("img"), kinds.get("label")
    if (
        picture is None
        or label is None
        or not (types.is_struct(picture) and picture.get_field_index("bytes") >= 0 and types.is_integer(label))
        or not (types.is_binary(kind := picture.field("bytes").type) or types.is_large_binary(kind))
    ):
        columns = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        wanted = "a struct img with a field bytes, and an integer label"
        raise ValueError(f"{file}: expected {wanted}, got {columns}")


def _pictures(batch: pyarrow.RecordBatch) -> list[bytes | None]:
    return batch.column("img").field("bytes").to_pylist()


def _labels(batch: pyarrow.RecordBatch, file: Path) -> Tensor:
    column = batch.column("label")
    if column.null_count:
        raise ValueError(f"{file}: {column.null_count} labels are missing")
    return torch.tensor(column.to_pylist(), dtype=torch.int64)


def _decode(pictures: list[bytes | None], first_row: int, file: Path) -> Tensor:
    # In a single thread: more of them were no faster, as Pillow's work on small pictures is mostly Python's.
    images = np.empty((len(pictures), 32, 32, 3), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        try:
            with Image.open(io.BytesIO(picture or b""), formats=["PNG", "JPEG"]) as image:
                if image.size != (32, 32):
                    raise ValueError(f"{image.size} pixels instead of 32×32")
                images[i] = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{file}: row {first_row + i} holds no picture that can be read ({error})") from error
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
