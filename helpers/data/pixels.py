"""The one range of the course: bytes 0 … 255 and floats in [−1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["from_uint8", "to_uint8"]


def from_uint8(images: Tensor) -> Tensor:
    """Bytes to the course's range: 0 → −1, 255 → 1.

    Args:
        images: uint8, any shape.

    Returns:
        float32 of that shape in [−1, 1].

    Raises:
        TypeError: If ``images`` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images, got {images.dtype}")
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """The inverse of :func:`from_uint8`: values outside [−1, 1] are clipped, and the rest rounded to nearest.

    Args:
        images: Floating point, any shape.

    Raises:
        TypeError: If ``images`` is not floating point.
        ValueError: If a value is not finite.
    """
    if not images.is_floating_point():
        raise TypeError(f"expected floating-point images in [-1, 1], got {images.dtype}")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("expected finite images, got infinities or NaN")
    images = images if images.dtype == torch.float64 else images.float()  # half precision cannot tell all bytes apart
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
