r"""Kernel distance between two sets of features: unbiased for every number of images.

The squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with the cubic polynomial kernel is, on Inception
features, the KID (Bińkowski et al. 2018, arXiv:1801.01401):

.. math:: \mathrm{MMD}^2 = \mathbb E\,k(x, x') + \mathbb E\,k(y, y') - 2\,\mathbb E\,k(x, y), \qquad
          k(x, y) = \Bigl(\frac{x\cdot y}{F} + 1\Bigr)^3.

Its estimate leaves out each point's likeness to itself, and so is right on average (and sometimes below 0) where the
Fréchet distance of few images is too large. Disjoint blocks of both sets give independent estimates: their mean is
unbiased too, and their scatter is an honest standard error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KernelDistance", "kernel_distance", "polynomial_kernel", "unbiased_mmd2"]


def polynomial_kernel(x: Tensor, y: Tensor, degree: int = 3, offset: float = 1.0) -> Tensor:
    """(x·y/F + offset)^degree for all pairs: (N, F) and (M, F) → (N, M).

    Raises:
        ValueError: If the two are not matrices with equally many columns.

    Example:
        >>> polynomial_kernel(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])).item()  # (4/2 + 1)³
        27.0
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"expected features (N, F) and (M, F), got {tuple(x.shape)} and {tuple(y.shape)}")
    return (x @ y.T / x.shape[1] + offset) ** degree


def unbiased_mmd2(x: Tensor, y: Tensor, degree: int = 3, offset: float = 1.0) -> float:
    """The estimate of MMD² from features x (N, F) and y (M, F) that is unbiased, and negative at times.

    Equation ``eq-kernel-distance`` of ``book/notation.md``.

    Raises:
        ValueError: If a set has fewer than two rows, the shapes do not fit, or a feature is not finite.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"expected at least two images in each set, got {len(x)} and {len(y)}")
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise ValueError("expected finite features, got infinities or NaN: did the sampler diverge?")
    x, y = x.double(), y.double()

    def within(z: Tensor) -> Tensor:
        kernel = polynomial_kernel(z, z, degree, offset)
        return (kernel.sum() - kernel.trace()) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2 * polynomial_kernel(x, y, degree, offset).mean())


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance with its uncertainty.

    Attributes:
        value: Mean of the blocks' unbiased estimates of MMD².
        standard_error: Of that mean, from the blocks' scatter.
        n_blocks: How many blocks.
        block_size: Images of each set in a block.
    """

    value: float
    standard_error: float
    n_blocks: int
    block_size: int


def kernel_distance(x: Tensor, y: Tensor, n_blocks: int = 10) -> KernelDistance:
    """MMD² with the cubic kernel, over disjoint blocks: the "KID" where the features are Inception's.

    Rows are taken in order, so they should not be sorted by class (or both sets in the same way).

    Args:
        x: Features (N, F).
        y: Features (M, F); of the larger set, only as many rows as of the smaller are used.
        n_blocks: Number of disjoint blocks, at least 2.

    Raises:
        ValueError: If a block would hold fewer than two images, or the shapes do not fit.
    """
    block_size = min(len(x), len(y)) // n_blocks if n_blocks >= 2 else 0
    if block_size < 2:
        raise ValueError(
            f"expected at least 2 blocks with 2 images of each set, got {n_blocks} blocks of {len(x)} and {len(y)}"
        )
    pairs = zip(x.split(block_size)[:n_blocks], y.split(block_size)[:n_blocks], strict=True)
    estimates = torch.tensor([unbiased_mmd2(a, b) for a, b in pairs], dtype=torch.float64)
    return KernelDistance(estimates.mean().item(), estimates.std().item() / math.sqrt(n_blocks), n_blocks, block_size)
