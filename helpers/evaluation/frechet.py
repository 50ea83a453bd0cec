r"""How far apart are two sets of images? Fréchet distance between their features.

Fit a Gaussian to each set's features; the distance between the two Gaussians
(Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500, eq. 6) is

.. math:: d^2 = \|\mu_1-\mu_2\|^2
          + \mathrm{tr}\bigl(\Sigma_1 + \Sigma_2 - 2(\Sigma_1^{1/2}\Sigma_2\Sigma_1^{1/2})^{1/2}\bigr).

It depends on the features and on the number of images (fewer images: larger). Compare only distances that share both,
and always with real-against-real, the floor. The excess falls about as 1/N, so that a line through distances at several
N, read off at 1/N = 0, is nearly free of it (Chong & Forsyth 2020, arXiv:1911.07023): :func:`frechet_at_infinity`.
The number of *reference* images is not extrapolated; :mod:`helpers.evaluation.kernel` has a distance without such bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = [
    "FeatureStatistics",
    "extract_features",
    "feature_statistics",
    "frechet_at_infinity",
    "frechet_distance",
]


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of a set's features.

    Attributes:
        mean: Shape (F,), float64.
        covariance: Shape (F, F), float64, unbiased.
        n: Number of images.
    """

    mean: Tensor
    covariance: Tensor
    n: int


@torch.no_grad()
def extract_features(features: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 500) -> Tensor:
    """Features of many images, batch by batch.

    Args:
        features: Images (B, C, H, W) → (B, F), e.g. ``SmallClassifier.features``, in evaluation mode.
        images: (N, C, H, W) in [−1, 1].
        batch_size: Images at a time.

    Returns:
        Shape (N, F), float64, on the CPU.

    Raises:
        ValueError: If ``features`` is a module in training mode, or there are no images.
    """
    if isinstance(features, nn.Module) and features.training:
        raise ValueError("expected the feature network in evaluation mode: call .eval() first")
    if len(images) == 0:
        raise ValueError("expected at least one image, got none")
    return torch.cat([features(batch).double().cpu() for batch in images.split(batch_size)])


def feature_statistics(features: Tensor) -> FeatureStatistics:
    """Mean and covariance of features (N, F), N ≥ 2, in float64.

    Raises:
        ValueError: For another shape, fewer than two rows, or values that are not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"expected features of shape (N, F) with N >= 2, got {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("expected finite features, got infinities or NaN: did the sampler diverge?")
    features = features.double()
    return FeatureStatistics(features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1), len(features))


def _psd_sqrt(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """d² between two Gaussians: 0 for equal statistics; the "FID" where the features are Inception's.

    Equation ``eq-frechet`` of ``book/notation.md``.

    Raises:
        ValueError: If the two do not have the same number of features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"expected equally many features, got {len(a.mean)} and {len(b.mean)}")
    root = _psd_sqrt(a.covariance)
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


def frechet_at_infinity(
    features: Tensor, reference: FeatureStatistics, generator: torch.Generator, n_points: int = 6
) -> float:
    """The Fréchet distance that infinitely many images would have, extrapolated linearly in 1/N.

    The subsets are drawn without replacement, evenly spaced in N from a quarter of the images to all.

    Args:
        features: (N, F), N ≥ 8.
        reference: What to compare with.
        generator: Draws the subsets.
        n_points: At how many N the distance is measured, at least 2.

    Raises:
        ValueError: If there are too few images or points, or the numbers of features differ.
    """
    if features.ndim != 2 or len(features) < 8 or n_points < 2:
        raise ValueError(
            f"expected features (N, F) with N >= 8 and n_points >= 2, got {tuple(features.shape)} and {n_points}"
        )
    sizes = torch.linspace(len(features) // 4, len(features), n_points).round().long()
    distances = []
    for size in sizes.tolist():
        subset = features[torch.randperm(len(features), generator=generator)[:size]]
        distances.append(frechet_distance(feature_statistics(subset), reference))
    design = torch.stack([torch.ones(n_points, dtype=torch.float64), 1 / sizes.double()], dim=1)
    line = torch.linalg.lstsq(design, torch.tensor(distances, dtype=torch.float64)[:, None]).solution
    return float(line[0, 0])
