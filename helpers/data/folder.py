"""Any folder of pictures as one tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .pixels import from_uint8

__all__ = ["IMAGE_SUFFIXES", "central_square", "folder_bytes", "image_folder"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""Endings of the files that :func:`image_folder` reads, in small letters."""


def image_folder(path: str | Path, size: int, channels: int = 3) -> Tensor:
    """All pictures below a folder, cropped to their central square and resized.

    Args:
        path: The folder; sub-folders are searched too, in sorted order.
        size: Height and width wanted.
        channels: 3 for colour, 1 for grey.

    Returns:
        Shape (N, channels, size, size), float32 in [−1, 1].

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: As :func:`folder_bytes`.
    """
    return from_uint8(folder_bytes(path, size, channels))


def folder_bytes(path: str | Path, size: int, channels: int = 3) -> Tensor:
    """What :func:`image_folder` reads with the same arguments, as bytes: uint8 (N, channels, size, size).

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no picture.
        NotADirectoryError: If ``path`` is a file.
        ValueError: If a picture cannot be read (which one, and what to do), or ``channels`` is neither 1 nor 3.
    """
    folder = Path(path).expanduser()
    if channels not in (1, 3):
        raise ValueError(f"expected channels to be 1 or 3, got {channels}")
    if size < 1:
        raise ValueError(f"expected size >= 1, got {size}")
    if not folder.exists():
        raise FileNotFoundError(f"no folder at {folder}: check the path, or create it and put pictures inside")
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder of pictures, got a file: {folder}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise FileNotFoundError(f"no pictures below {folder}: expected files ending in {endings}")
    pictures = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    for picture, file in zip(pictures, files, strict=True):
        picture.copy_(_read_square(file, size, channels))
    return pictures


def _read_square(file: Path, size: int, channels: int) -> Tensor:
    try:
        with Image.open(file) as picture:
            return central_square(picture, size, channels)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {file} ({error}): remove it, or save it anew as PNG") from error


def central_square(picture: Image.Image, size: int, channels: int) -> Tensor:
    """The central square of a picture, turned upright and resized: uint8, (channels, size, size).

    16 bits a channel become 8, and what is transparent shows a white ground.

    Raises:
        ValueError: If it has 32 bits a channel, whose range no one knows.
    """
    picture = _on_white(_in_8_bits(ImageOps.exif_transpose(picture))).convert("RGB" if channels == 3 else "L")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).reshape(size, size, channels).permute(2, 0, 1)


def _in_8_bits(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F"):
        raise ValueError(f"expected 8 or 16 bits a channel, got Pillow's mode {picture.mode}, which has 32")
    if not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture)
    values = np.where(values == picture.info.get("transparency", -1), 65_535, values)  # one grey may mean "transparent"
    return Image.fromarray((values / 257).round().astype(np.uint8))  # 65,535 = 257 · 255


def _on_white(picture: Image.Image) -> Image.Image:
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
