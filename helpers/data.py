"""Images in, tensors in [−1, 1] out; and 2-D toy densities.

Everything here works without a network: the digits ship inside scikit-learn (a copy of the test set of
Alpaydin & Kaynak 1998, UCI Optical Recognition of Handwritten Digits), the 2-D sets are drawn on the spot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from .oracle import eight_gaussians

__all__ = ["TOY_2D", "Split", "digits", "from_uint8", "image_folder", "to_uint8", "toy_2d"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Split:
    """A labelled image set, split for training and testing.

    Attributes:
        train: Shape (N, C, H, W), float32 in [−1, 1].
        test: Shape (M, C, H, W), float32 in [−1, 1].
        train_labels: Shape (N,), int64.
        test_labels: Shape (M,), int64.
    """

    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor


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
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def digits(size: int = 16, test_fraction: float = 0.2, seed: int = 42) -> Split:
    """scikit-learn's 1,797 handwritten digits (8×8 pixels, 17 grey levels), resized.

    Args:
        size: Height and width wanted; 8 gives the original pixels, others are interpolated bilinearly.
        test_fraction: Share held out for testing, in (0, 1).
        seed: Which images are held out; the same seed always gives the same split.

    Returns:
        The split, with images of shape (N, 1, size, size) in [−1, 1], background −1.

    Raises:
        ValueError: For a size below 1 or a fraction outside (0, 1).
    """
    if size < 1:
        raise ValueError(f"expected size >= 1, got {size}")
    if not 0 < test_fraction < 1:
        raise ValueError(f"expected test_fraction in (0, 1), got {test_fraction}")
    source = load_digits()
    images = torch.from_numpy(source.images).float()[:, None] / 8 - 1
    if size != 8:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    labels = torch.from_numpy(source.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    n_test = round(test_fraction * len(images))
    test, train = order[:n_test], order[n_test:]
    return Split(images[train], images[test], labels[train], labels[test])


def image_folder(path: str | Path, size: int, channels: int = 3) -> Tensor:
    """All pictures below a folder, cropped to their central square and resized.

    Args:
        path: The folder; sub-folders are searched too, in sorted order.
        size: Height and width wanted.
        channels: 3 for colour, 1 for grey.

    Returns:
        Shape (N, channels, size, size), float32 in [−1, 1].

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
    return from_uint8(torch.stack([_read_square(file, size, channels) for file in files]))


def _read_square(file: Path, size: int, channels: int) -> Tensor:
    try:
        with Image.open(file) as picture:
            picture = ImageOps.exif_transpose(picture).convert("RGB" if channels == 3 else "L")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {file} ({error}): remove it, or save it anew as PNG") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).reshape(size, size, channels).permute(2, 0, 1)


def _chequerboard(n: int, generator: torch.Generator | None) -> Tensor:
    column = torch.randint(4, (n,), generator=generator)
    row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
    cell = torch.stack([column, row], dim=1).double()
    return cell + torch.rand(n, 2, generator=generator, dtype=torch.float64) - 2


def _moons(n: int, generator: torch.Generator | None) -> Tensor:
    angle = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    upper = torch.randint(2, (n,), generator=generator).bool()
    x = torch.where(upper, angle.cos() - 0.5, 0.5 - angle.cos())
    y = torch.where(upper, angle.sin() - 0.25, 0.25 - angle.sin())
    noise = 0.08 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return 1.4 * (torch.stack([x, y], dim=1) + noise)


def _spiral(n: int, generator: torch.Generator | None, arms: int) -> Tensor:
    turn = torch.rand(n, generator=generator, dtype=torch.float64).sqrt()
    arm = torch.randint(arms, (n,), generator=generator) * (2 * math.pi / arms)
    angle = 3 * math.pi * turn + arm
    points = 2 * turn[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return points + 0.06 * torch.randn(n, 2, generator=generator, dtype=torch.float64)


TOY_2D: dict[str, Callable[[int, torch.Generator | None], Tensor]] = {
    "eight_gaussians": lambda n, generator: eight_gaussians().sample(n, generator),
    "chequerboard": _chequerboard,
    "two_moons": _moons,
    "spiral": lambda n, generator: _spiral(n, generator, arms=1),
    "two_spirals": lambda n, generator: _spiral(n, generator, arms=2),
}
"""Name → sampler ``(n, generator) -> (n, 2)`` of each 2-D toy distribution; all lie within about [−3, 3]²."""


def toy_2d(name: str, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n points of a 2-D toy distribution.

    Args:
        name: A key of :data:`TOY_2D`.
        n: How many.
        generator: Source of randomness.

    Returns:
        Shape (n, 2), float32.

    Raises:
        ValueError: For an unknown name or n < 1.
    """
    if name not in TOY_2D:
        raise ValueError(f"expected one of {', '.join(TOY_2D)}, got {name!r}")
    if n < 1:
        raise ValueError(f"expected n >= 1, got {n}")
    return TOY_2D[name](n, generator).float()
