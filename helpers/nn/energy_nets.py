"""Networks that answer with one number a sample: energies, x → E(x), low where x is likely.

What they leave out matters. No batch normalisation: the energy of one sample must not depend on the others, or each
Langevin chain feels its neighbours. No dropout: chains need one landscape, not a new one a step. SiLU instead of ReLU:
the force −∇E is then continuous, and training by score matching differentiates it once more. No activation at the end:
energies are numbers of either sign, and only their differences mean something.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["EnergyCNN", "EnergyMLP"]


class EnergyMLP(nn.Module):
    """Points (B, D) → energies (B,): a plain MLP with SiLU.

    Args:
        dim: D.
        width: Width of the hidden layers.
        depth: Number of hidden layers.

    Raises:
        ValueError: For ``dim``, ``width`` or ``depth`` below 1.

    Example:
        >>> import torch
        >>> EnergyMLP(dim=2)(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, dim: int = 2, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        if min(dim, width, depth) < 1:
            raise ValueError(f"expected dim, width and depth >= 1, got {dim}, {width}, {depth}")
        self.dim = dim
        widths = [dim] + [width] * depth
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Points (B, D) → energies (B,).

        Raises:
            ValueError: For points of another shape.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"expected points of shape (B, {self.dim}), got {tuple(x.shape)}")
        return self.net(x).squeeze(1)


class EnergyCNN(nn.Module):
    """Images (B, C, size, size) → energies (B,): convolutions that halve the map down to 4×4, and one linear layer.

    A convolution at full resolution, then kernels of 4 with stride 2, which cover all pixels equally often (kernels of
    3 would leave a checkerboard in the gradient), while the channels double; after Nijkamp et al. (2019, "Learning
    non-convergent non-persistent short-run MCMC toward energy-based model", arXiv:1904.09770, appendix). With the
    standard width 0.052 GFLOP for an image of 3×32×32, and 0.7 M parameters.

    Args:
        in_channels: C.
        size: Height and width: 4, 8, 16, 32, ….
        width: Channels at full resolution; they double with each halving.

    Raises:
        ValueError: For channels or widths below 1, or a size that is not 4 times a power of two.
    """

    def __init__(self, in_channels: int = 3, size: int = 32, width: int = 32) -> None:
        super().__init__()
        if min(in_channels, width) < 1:
            raise ValueError(f"expected in_channels and width >= 1, got {in_channels}, {width}")
        if size < 4 or size & (size - 1):
            raise ValueError(f"expected a size of 4 times a power of two, got {size}")
        self.shape = (in_channels, size, size)
        widths = [width << k for k in range((size // 4).bit_length())]
        layers = [nn.Conv2d(in_channels, width, kernel_size=3, padding=1), nn.SiLU()]
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, size, size) → energies (B,).

        Raises:
            ValueError: For images of another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected images of shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return self.net(x).squeeze(1)
