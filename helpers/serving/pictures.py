"""Between tensors and files of pictures; what comes from outside is decoded with care.

A decoder meets hostile bytes here. So: two formats only, the size in pixels checked before any pixel is decoded, and
whatever the decoder complains of is the client's mistake.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from .. import data

__all__ = ["FORMATS", "BadPicture", "decode", "png_grid", "pngs", "zip_of_pngs"]

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG"}
"""Media types that can be uploaded, and Pillow's names of them."""

MAX_SCANS = 100
"""Of a JPEG file. A decoder goes over the whole picture once a scan; usual files have one to ten."""

MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # 8 bits a channel at most
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same pictures make the same file


class BadPicture(ValueError):
    """Bytes that are no picture of a kind and size that is accepted.

    Attributes:
        limit: What is accepted.
        value: What came.
    """

    def __init__(self, message: str, limit: object, value: object) -> None:
        super().__init__(message)
        self.limit, self.value = limit, value


def decode(content: bytes, media_type: str, shape: Sequence[int], max_pixels: int) -> Tensor:
    """An uploaded picture as a batch of one: its central square, resized, in [−1, 1].

    Args:
        content: The file.
        media_type: One of :data:`FORMATS`.
        shape: (C, H, W) that the model takes, H = W.
        max_pixels: The largest picture that is decoded.

    Returns:
        Shape (1, C, H, W), float32.

    Raises:
        BadPicture: If it is another format, damaged, too large, or made to keep a decoder busy.
    """
    kind = FORMATS[media_type]
    # Within a scan 0xFF is always followed by 0 or by a restart marker.
    if kind == "JPEG" and (scans := content.count(b"\xff\xda")) > MAX_SCANS:
        raise BadPicture("too many scans", MAX_SCANS, scans)
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as picture:
            if picture.width * picture.height > max_pixels:
                raise BadPicture("too many pixels", max_pixels, picture.width * picture.height)
            if picture.mode not in MODES:
                raise BadPicture("not 8 bits a channel", "8 bits a channel", picture.mode)
            picture.load()
            square = data.central_square(picture, shape[-1], shape[0])
    except BadPicture:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPicture("too many pixels", max_pixels, "a decompression bomb") from error
    except Exception as error:  # what a decoder raises on hostile bytes is not a closed list
        raise BadPicture(f"not a whole {kind} file", f"a {kind} file", f"{len(content)} bytes") from error
    return data.from_uint8(square)[None]


def _enlarged(images: Tensor, scale: int) -> Tensor:
    """Bytes of pictures (N, C, H, W) in [−1, 1], each pixel ``scale`` × ``scale`` times."""
    return data.to_uint8(images).repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def _png(image: Tensor, note: Mapping[str, Any] | None = None) -> bytes:
    info = PngInfo()
    if note is not None:
        info.add_text("request", json.dumps(note))
    content = io.BytesIO()
    to_pil_image(image).save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def pngs(images: Tensor, scale: int = 1) -> list[bytes]:
    """One PNG file for each picture (N, C, H, W) in [−1, 1]."""
    return [_png(image) for image in _enlarged(images, scale)]


def png_grid(images: Tensor, scale: int = 1, note: Mapping[str, Any] | None = None) -> bytes:
    """One PNG file of all pictures side by side, about as many rows as columns.

    Args:
        images: (N, C, H, W) in [−1, 1].
        scale: How many times each pixel is enlarged.
        note: Kept in the file as the text "request": with what the pictures can be made again.
    """
    columns = max(1, round(len(images) ** 0.5))
    return _png(make_grid(_enlarged(images, scale), nrow=columns, padding=scale, pad_value=255), note)


def zip_of_pngs(images: Tensor, scale: int, note: Mapping[str, Any]) -> bytes:
    """A zip archive of ``000.png``, ``001.png``, …, and ``request.json``."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for k, picture in enumerate(pngs(images, scale)):
            archive.writestr(zipfile.ZipInfo(f"{k:03}.png", EPOCH), picture)
        archive.writestr(zipfile.ZipInfo("request.json", EPOCH), json.dumps(note, indent=2) + "\n")
    return content.getvalue()
