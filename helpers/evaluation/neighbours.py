"""What nearest neighbours tell: precision, recall, density, coverage, and whether a model repeats its training data.

A Fréchet distance is one number for two faults. *Precision* asks how many samples look like some real image, *recall*
how many real images look like some sample (Kynkäänniemi et al. 2019, arXiv:1904.06991), where "like" is: within the
distance of the k-th neighbour among its own kind. *Density* and *coverage* (Naeem et al. 2020, arXiv:2002.09797) ask
the same and are less easily misled by outliers; density may exceed 1.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import torch
from torch import Tensor

from .packages import needed

__all__ = ["Neighbours", "data_copying", "nearest_neighbours", "precision_recall"]


def _check_features(**features: Tensor) -> None:
    for name, value in features.items():
        if value.ndim != 2 or len(value) == 0:
            raise ValueError(f"expected {name} of shape (N, F) with N >= 1, got {tuple(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"expected finite {name}, got infinities or NaN: did the sampler diverge?")
    if len({value.shape[1] for value in features.values()}) > 1:
        shapes = " and ".join(str(tuple(value.shape)) for value in features.values())
        raise ValueError(f"expected equally many features, got {shapes}")


def precision_recall(real: Tensor, samples: Tensor, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage, by the package ``prdc`` of the authors of the last two.

    They depend on both numbers of images and on k: compare only values that share all three. Memory grows as N·M.

    Args:
        real: Features (N, F).
        samples: Features (M, F).
        k: Which neighbour sets the radius.

    Returns:
        ``{"precision": …, "recall": …, "density": …, "coverage": …}``.

    Raises:
        ValueError: If shapes or values do not fit, or a set has fewer than k + 2 rows.
        ModuleNotFoundError: If ``prdc`` is missing.
    """
    _check_features(real=real, samples=samples)
    if k < 1 or min(len(real), len(samples)) < k + 2:
        raise ValueError(f"expected k >= 1 and k + 2 images a set, got k = {k}, {len(real)} and {len(samples)} images")
    library = needed("prdc", "prdc", "precision_recall")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the numbers of images
        result = library.compute_prdc(real.double().cpu().numpy(), samples.double().cpu().numpy(), nearest_k=k)
    return {name: float(result[name]) for name in ("precision", "recall", "density", "coverage")}


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of a pool, nearest first.

    Attributes:
        distance: Euclidean, (N, k), float32.
        index: Into the pool, (N, k), int64.
    """

    distance: Tensor
    index: Tensor


def nearest_neighbours(queries: Tensor, pool: Tensor, k: int = 1, chunk: int = 1000) -> Neighbours:
    """For each query its k nearest in the pool, by Euclidean distance of the features.

    Args:
        queries: Features (N, F), e.g. of samples.
        pool: Features (M, F), e.g. of all training images.
        k: How many.
        chunk: Queries at a time; memory grows as chunk · M.

    Raises:
        ValueError: If shapes or values do not fit, or k is not from 1 to M.
    """
    _check_features(queries=queries, pool=pool)
    if not 1 <= k <= len(pool):
        raise ValueError(f"expected k from 1 to {len(pool)}, the size of the pool, got {k}")
    queries, pool = queries.float(), pool.float()
    exact = "donot_use_mm_for_euclid_dist"  # the short cut through x² + y² − 2xy loses the distances of copies
    parts = [torch.cdist(q, pool, compute_mode=exact).topk(k, largest=False) for q in queries.split(chunk)]
    return Neighbours(torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts]))


def data_copying(samples: Tensor, train: Tensor, held_out: Tensor) -> float:
    """Probability that a sample is nearer to the training set than a held-out image is; 1/2 where nothing is copied.

    The Mann-Whitney statistic of the distances to the nearest training image (Meehan, Chaudhuri & Dasgupta 2020,
    arXiv:2004.05675; they apply it cell by cell). Near 1: the samples repeat training images, or are so bland that they
    lie near many (then their coverage is near 0): look at the pairs. Below 1/2: they keep farther away than real images
    do, mostly because they are poor.

    Args:
        samples: Features (N, F).
        train: Features (M, F) of the training images.
        held_out: Features (L, F) of images that the model never saw.

    Raises:
        ValueError: If shapes or values do not fit.
    """
    of_samples, of_held_out = (nearest_neighbours(x, train).distance[:, 0].contiguous() for x in (samples, held_out))
    ordered = of_held_out.sort().values
    farther = len(ordered) - torch.searchsorted(ordered, of_samples, right=True)
    not_nearer = len(ordered) - torch.searchsorted(ordered, of_samples)
    return ((farther + not_nearer).double().mean() / (2 * len(ordered))).item()  # a tie counts a half
