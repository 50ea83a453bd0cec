"""What does a distance of 75 look like? Real images, made worse on purpose, give every table its scale.

The damages are the ones that eyes know: fewer images (the floor, where nothing is wrong), JPEG compression, blur, and
uniform noise in place of images (the ceiling).

Which images are taken matters a little: from one block of training images to the next, a distance at N = 5,000 moves by
a few tenths. How the blur is defined matters more, so it is Pillow's here.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from .features import Features, as_bytes
from .frechet import extract_features
from .references import Reference
from .report import evaluate_features

__all__ = ["blur", "calibrate", "jpeg", "uniform_noise"]


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply a function of Pillow images to bytes (N, 3, H, W)."""
    changed = [np.array(change(Image.fromarray(x.permute(1, 2, 0).numpy())).convert("RGB")) for x in as_bytes(images)]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).contiguous()


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Images as they come back from JPEG files, with Pillow's encoder: (N, 3, 32, 32) → uint8 of that shape.

    Raises:
        ValueError: If the quality is not from 1 to 95.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"expected a quality from 1 to 95, got {quality}")

    def through_a_file(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(images, through_a_file)


def blur(images: Tensor, radius: float = 1.0) -> Tensor:
    """Gaussian blur with Pillow's filter, its standard deviation in pixels: (N, 3, 32, 32) → uint8 of that shape.

    Raises:
        ValueError: If the radius is not positive.
    """
    if not radius > 0:
        raise ValueError(f"expected a radius > 0, got {radius}")
    return _each(images, lambda picture: picture.filter(ImageFilter.GaussianBlur(radius)))


def uniform_noise(n: int, generator: torch.Generator) -> Tensor:
    """Bytes without any picture in them: uint8 (n, 3, 32, 32)."""
    return torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)


def calibrate(
    features: Features, reference: Reference, train: Tensor, *, n: int = 10_000, batch_size: int = 100
) -> list[dict[str, Any]]:
    """The scale of a results table: rows for untouched and for damaged training images, and for noise.

    Args:
        features: The feature space.
        reference: What to compare with, in the same features.
        train: uint8 (≥ n, 3, 32, 32); the first n are used, n/2 of them for the damages.
        n: The largest number of images.
        batch_size: Images at a time.

    Returns:
        ``[{"images": …, "n": …, "frechet_distance": …, …}, …]``, in the order of the module's first paragraph; what
        else a row has says :func:`~helpers.evaluation.report.evaluate_features`.

    Raises:
        ValueError: If there are fewer than n images or fewer than 100 are asked for.
    """
    if not 100 <= n <= len(train):
        raise ValueError(f"expected n from 100 to {len(train)}, the number of images, got {n}")
    real = extract_features(features, train[:n], batch_size)
    half = train[: n // 2]
    noise = uniform_noise(n // 2, torch.Generator().manual_seed(0))
    sets = [(f"training images 0 to {m - 1}", real[:m]) for m in (n, n // 2, n // 5)] + [
        (f"{name} of training images 0 to {n // 2 - 1}", extract_features(features, images, batch_size))
        for name, images in (("JPEG quality 75", jpeg(half)), ("Gaussian blur 1 px (Pillow)", blur(half)))
    ]
    sets.append(("uniform noise, seed 0", extract_features(features, noise, batch_size)))
    of_all = ("features", "label", "n_reference")  # the same in all rows
    rows = [{"images": name, **evaluate_features(x, reference)} for name, x in sets]
    return [{key: value for key, value in row.items() if key not in of_all} for row in rows]
