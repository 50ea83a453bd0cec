"""The two blocks that U-Nets of diffusion models are made of: residual and attention.

Residual blocks after He et al. (2016, arXiv:1512.03385) with group normalisation (Wu & He 2018, arXiv:1803.08494)
and a shift from the time embedding (Ho et al. 2020, arXiv:2006.11239, appendix B); attention over positions after
Vaswani et al. (2017, arXiv:1706.03762) and Wang et al. (2018, arXiv:1711.07971).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionBlock", "ResidualBlock"]

GROUPS = 8


def check_channels(**channels: int) -> None:
    """Raise ``ValueError`` unless every number of channels is a positive multiple of the 8 groups of GroupNorm."""
    for name, number in channels.items():
        if number < GROUPS or number % GROUPS:
            raise ValueError(f"expected {name} to be a positive multiple of {GROUPS} (GroupNorm), got {number}")


class ResidualBlock(nn.Module):
    """conv → norm → ReLU → + time → conv → norm → dropout → ReLU → + input.

    As in the assignment: the last ReLU stands *before* the sum, so the block can only add to its input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of 8.
        time_emb_dim: Length of the time embedding.
        dropout: Share of activations set to zero in training.

    Raises:
        ValueError: If ``out_channels`` is not a multiple of 8.
    """

    def __init__(self, in_channels: int, out_channels: int, time_emb_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        check_channels(out_channels=out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.time_mlp = nn.Linear(time_emb_dim, out_channels)
        self.norm1 = nn.GroupNorm(GROUPS, out_channels)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels)
        self.dropout = nn.Dropout(dropout)
        same = in_channels == out_channels
        self.residual_conv = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor, time_emb: Tensor) -> Tensor:
        """x (B, in_channels, H, W) and time_emb (B, time_emb_dim) → (B, out_channels, H, W)."""
        h = F.relu(self.norm1(self.conv1(x)))
        h = h + self.time_mlp(F.relu(time_emb))[:, :, None, None]
        h = F.relu(self.dropout(self.norm2(self.conv2(h))))
        return h + self.residual_conv(x)


class AttentionBlock(nn.Module):
    r"""Each position looks at all others: :math:`\mathrm{softmax}(QK^\top/\sqrt C)V`, one head, added to the input.

    Args:
        channels: C, a multiple of 8.

    Raises:
        ValueError: If ``channels`` is not a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_channels(channels=channels)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.proj = nn.Conv2d(channels, channels, kernel_size=1)

    def _weights_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Attention weights (B, HW, HW) and values (B, HW, C)."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        return torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, dim=-1), v

    def attention_map(self, x: Tensor) -> Tensor:
        """How much position i looks at position j: (B, C, H, W) → (B, HW, HW), rows sum to 1."""
        return self._weights_and_values(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        weights, values = self._weights_and_values(x)
        return x + self.proj((weights @ values).transpose(1, 2).reshape(x.shape))
