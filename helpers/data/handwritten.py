"""Handwritten digits that need no network: they ship inside scikit-learn.

A copy of the test set of Alpaydin & Kaynak (1998), UCI Optical Recognition of Handwritten Digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Split", "digits"]


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
    from sklearn.datasets import load_digits  # takes seconds to import, which nothing else here needs

    source = load_digits()
    images = torch.from_numpy(source.images).float()[:, None] / 8 - 1
    if size != 8:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    labels = torch.from_numpy(source.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    n_test = round(test_fraction * len(images))
    test, train = order[:n_test], order[n_test:]
    return Split(images[train], images[test], labels[train], labels[test])
