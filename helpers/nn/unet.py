"""The assignment's U-Net (after Ronneberger et al. 2015, arXiv:1505.04597, and Ho et al. 2020, arXiv:2006.11239).

Widths at ``base_channels`` c: c → 2c → 4c on the way down, at H, H/2 and H/4; attention at H/4; back up with the
features of the way down concatenated. With c = 64 it has 7,719,747 parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import GROUPS, AttentionBlock, ResidualBlock, check_channels
from .embeddings import SinusoidalTimeEmbedding

__all__ = ["SimpleUNet"]


class SimpleUNet(nn.Module):
    """Predicts the noise ε in ``x_t``.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the prediction.
        time_emb_dim: Length of the sinusoidal embedding; the blocks see 4 × as many numbers.
        base_channels: Width c at full resolution, a multiple of 8. The assignment's network has 64.
        dropout: Dropout of the residual blocks.

    Raises:
        ValueError: If ``base_channels`` is not a multiple of 8 or ``time_emb_dim`` is odd.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        time_emb_dim: int = 128,
        base_channels: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_channels(base_channels=base_channels)
        c, emb = base_channels, 4 * time_emb_dim
        self.in_channels = in_channels
        self.time_embed = nn.Sequential(
            SinusoidalTimeEmbedding(time_emb_dim), nn.Linear(time_emb_dim, emb), nn.ReLU(), nn.Linear(emb, emb)
        )
        self.init_conv = nn.Conv2d(in_channels, c, kernel_size=3, padding=1)
        self.down1 = ResidualBlock(c, 2 * c, emb, dropout)
        self.downsample1 = nn.Conv2d(2 * c, 2 * c, kernel_size=3, stride=2, padding=1)
        self.down2 = ResidualBlock(2 * c, 4 * c, emb, dropout)
        self.downsample2 = nn.Conv2d(4 * c, 4 * c, kernel_size=3, stride=2, padding=1)
        self.mid1 = ResidualBlock(4 * c, 4 * c, emb, dropout)
        self.mid_attn = AttentionBlock(4 * c)
        self.mid2 = ResidualBlock(4 * c, 4 * c, emb, dropout)
        self.upsample1 = nn.ConvTranspose2d(4 * c, 4 * c, kernel_size=4, stride=2, padding=1)
        self.up1 = ResidualBlock(8 * c, 2 * c, emb, dropout)
        self.upsample2 = nn.ConvTranspose2d(2 * c, 2 * c, kernel_size=4, stride=2, padding=1)
        self.up2 = ResidualBlock(4 * c, c, emb, dropout)
        self.final_norm = nn.GroupNorm(GROUPS, c)
        self.final_conv = nn.Conv2d(c, out_channels, kernel_size=3, padding=1)

    def _check(self, x: Tensor, t: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}")
        if x.shape[2] % 4 or x.shape[3] % 4:
            raise ValueError(
                f"expected height and width divisible by 4 (two stride-2 downsamplings), got {x.shape[2]}×{x.shape[3]}"
            )
        if t.shape != x.shape[:1]:
            raise ValueError(f"expected one timestep per image, shape ({x.shape[0]},), got {tuple(t.shape)}")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) and timesteps (B,) → (B, out_channels, H, W).

        Raises:
            ValueError: For a wrong number of channels, H or W not divisible by 4, or not one t per image.
        """
        self._check(x, t)
        # Angles of late steps need more digits than half precision has; a float64 network wants float64 ones.
        # Embeddings are float32, or float64 for times in it, which a float64 network wants.
        emb = self.time_embed(t.to(torch.float64 if x.dtype == torch.float64 else torch.float32))
        skip1 = self.down1(self.init_conv(x), emb)
        skip2 = self.down2(self.downsample1(skip1), emb)
        h = self.mid1(self.downsample2(skip2), emb)
        h = self.mid2(self.mid_attn(h), emb)
        h = self.up1(torch.cat([self.upsample1(h), skip2], dim=1), emb)
        h = self.up2(torch.cat([self.upsample2(h), skip1], dim=1), emb)
        return self.final_conv(F.relu(self.final_norm(h)))
