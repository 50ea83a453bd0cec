"""What CIFAR-10 is: ten classes, 5,000 training and 1,000 test images of each, 3×32×32 bytes an image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["CIFAR10", "CLASSES", "PER_CLASS", "SPLITS", "checked"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The name of each label, 0 to 9."""

SPLITS = ("train", "test")

PER_CLASS: Mapping[str, int] = {"train": 5_000, "test": 1_000}
"""How many images of each class a split holds."""


@dataclass(frozen=True, eq=False)
class CIFAR10:
    """The data set, as bytes: :func:`helpers.data.from_uint8` turns a batch into floats in [−1, 1].

    Attributes:
        train: Shape (50000, 3, 32, 32), uint8, in the order of the official batches if the source keeps it.
        train_labels: Shape (50000,), int64, 0 to 9.
        test: Shape (10000, 3, 32, 32), uint8.
        test_labels: Shape (10000,), int64.
        classes: The ten names; ``classes[label]`` is an image's class.
        source: Where the images come from, in words.
    """

    train: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: tuple[str, ...] = field(default=CLASSES, repr=False)
    source: str = "unknown"

    def sha256(self) -> dict[str, str]:
        """The SHA-256 of each split's pixels, for a model's card: bytes in the order (image, row, column, channel)."""
        splits = {"train": self.train, "test": self.test}
        return {
            name: hashlib.sha256(images.permute(0, 2, 3, 1).contiguous().numpy()).hexdigest()
            for name, images in splits.items()
        }


def checked(splits: Mapping[str, tuple[Tensor, Tensor]], source: str, per_class: Mapping[str, int]) -> CIFAR10:
    """The data set, if it is whole: shapes, types, number of images, and number of images of each class.

    Re-encoded pixels pass: mirrors differ, and a hash of the pixels would refuse what serves as well.

    Args:
        splits: ``"train"`` and ``"test"``, each images (N, 3, 32, 32) uint8 and labels (N,) int64.
        source: Where they come from, for the error message and for :attr:`CIFAR10.source`.
        per_class: Images of each class in each split; :data:`PER_CLASS` for the real data set.

    Raises:
        ValueError: If something else than CIFAR-10 came.
    """
    for name in SPLITS:
        _check_split(*splits[name], f"{source}: {name} split", per_class[name])
    return CIFAR10(*splits["train"], *splits["test"], source=source)


def _check_split(images: Tensor, labels: Tensor, where: str, per_class: int) -> None:
    n = per_class * len(CLASSES)
    for what, got, shape, dtype in (
        ("images", images, (n, 3, 32, 32), torch.uint8),
        ("labels", labels, (n,), torch.int64),
    ):
        if got.dtype != dtype or tuple(got.shape) != shape:
            raise ValueError(f"{where}: expected {what} {shape} {dtype}, got {tuple(got.shape)} {got.dtype}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(CLASSES):
        raise ValueError(f"{where}: expected labels 0 to 9, got {int(labels.min())} to {int(labels.max())}")
    counts = torch.bincount(labels, minlength=len(CLASSES)).tolist()
    wrong = [f"{count:,} of {name}" for name, count in zip(CLASSES, counts, strict=True) if count != per_class]
    if wrong:
        raise ValueError(f"{where}: expected {per_class:,} images of each class, got {', '.join(wrong)}")
