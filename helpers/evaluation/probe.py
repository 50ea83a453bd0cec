r"""Are the features any good? A linear probe: how well a linear map of them tells classes apart.

Ridge regression of the classes' indicators on standardised features z, in closed form:

.. math:: W = \bigl(\tfrac1N Z^\top Z + \lambda I\bigr)^{-1}\,\tfrac1N Z^\top (Y - \bar Y).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["linear_probe"]


def linear_probe(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, ridge: float = 0.1
) -> float:
    """Test accuracy of the ridge classifier fitted to the training features.

    Args:
        train: Features (N, F).
        train_labels: int64 (N,), from 0.
        test: Features (M, F).
        test_labels: int64 (M,).
        ridge: λ, relative to the variance 1 of standardised features.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or ``ridge`` is not positive.
    """
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or len(train) < 2 or len(test) < 1:
        raise ValueError(f"expected features (N, F) and (M, F), got {tuple(train.shape)} and {tuple(test.shape)}")
    if train_labels.shape != (len(train),) or test_labels.shape != (len(test),):
        raise ValueError(
            f"expected a label for each image, got {tuple(train_labels.shape)} and {tuple(test_labels.shape)}"
        )
    if not ridge > 0:
        raise ValueError(f"expected ridge > 0, got {ridge}")
    if not bool(torch.isfinite(train).all() and torch.isfinite(test).all()):
        raise ValueError("expected finite features, got infinities or NaN")
    train, test = train.double(), test.double()
    mean, std = train.mean(0), train.std(0).clamp_min(1e-12)
    z, y = (train - mean) / std, F.one_hot(train_labels).double()
    gram = z.T @ z / len(z) + ridge * torch.eye(z.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, z.T @ (y - y.mean(0)) / len(z))
    guesses = ((test - mean) / std @ weight + y.mean(0)).argmax(1)
    return (guesses == test_labels).double().mean().item()
