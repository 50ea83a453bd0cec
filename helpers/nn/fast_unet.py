"""A U-Net whose time on a CPU goes into matrix products: :class:`FastUNet`.

What costs time in a small U-Net is not only arithmetic: narrow layers at full resolution, normalisations, copies
between memory layouts. This network therefore

* never computes at full resolution: pixels are folded 2 × 2 into channels first, and unfolded at the end
  (Shi et al. 2016, arXiv:1609.05158; Hoogeboom et al. 2023, arXiv:2301.11093, find little use in large maps);
* has two resolutions, a half and a quarter, each wide enough to keep the processor's matrix units busy;
* attends at the lower one only, as matrix products on views of channels-last tensors, without copies;
* halves the channels *before* it enlarges maps, and merges skips by 1 × 1 convolutions.

Time and class act on each block by a scale and a shift (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3), and each
block starts as the identity, since its last convolution starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .embeddings import SinusoidalTimeEmbedding

__all__ = ["FastUNet"]

HEAD_CHANNELS = 64
GROUP_CHANNELS = 16


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // GROUP_CHANNELS, channels)


def _zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ModulatedBlock(nn.Module):
    """norm → SiLU → conv → norm · (1 + scale) + shift → SiLU → conv (from zero) → + input.

    Args:
        channels: C of input and output, a multiple of 16.
        emb_channels: Length of the embedding of time and class.
        dropout: Share of activations set to zero in training.
    """

    def __init__(self, channels: int, emb_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.modulation = _zero(nn.Linear(emb_channels, 2 * channels))
        self.norm2 = _norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zero(nn.Conv2d(channels, channels, kernel_size=3, padding=1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, C, H, W) and emb (B, emb_channels) → (B, C, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(emb).to(h.dtype)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return x + self.conv2(self.dropout(F.silu(h)))


class MultiHeadAttention(nn.Module):
    r"""Each position looks at all others, in heads of 64 channels: :math:`\mathrm{softmax}(QK^\top/\sqrt{64})V`.

    Plain matrix products: for maps of 8 × 8 they were faster here, backward above all, than the fused kernel.

    Args:
        channels: C, a multiple of 64.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = _zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        heads = self.qkv(tokens).view(batch, height * width, 3, channels // HEAD_CHANNELS, HEAD_CHANNELS)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-2, -1) * HEAD_CHANNELS**-0.5, dim=-1).to(v.dtype)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, height, width, channels)
        return x + self.proj(mixed).permute(0, 3, 1, 2)


class FastUNet(nn.Module):
    """Images and times, and classes if there are any → images.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_classes: Number of classes, or 0 for a model without; label ``n_classes`` means "no class".
        channels: Widths at half and at a quarter of the resolution, multiples of 64.
        blocks: Residual blocks: encoder at half and at a quarter of the resolution, decoder at a quarter and at half.
        emb_channels: Length of the embedding of time and class.
        time_scale: The time is multiplied by this before it is embedded.
        dropout: Share of activations set to zero in training.

    Raises:
        ValueError: For widths that are not multiples of 64, or fewer than one block anywhere.

    Example:
        >>> net = FastUNet(n_classes=10, channels=(64, 128))
        >>> net(torch.zeros(2, 3, 32, 32), torch.zeros(2), torch.tensor([3, 10])).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        n_classes: int = 0,
        channels: Sequence[int] = (128, 256),
        blocks: Sequence[int] = (1, 2, 2, 2),
        emb_channels: int = 512,
        time_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(channels) != 2 or any(c < HEAD_CHANNELS or c % HEAD_CHANNELS for c in channels):
            raise ValueError(f"expected two widths that are multiples of {HEAD_CHANNELS}, got {tuple(channels)}")
        if len(blocks) != 4 or any(n < 1 for n in blocks):
            raise ValueError(f"expected four numbers of blocks, each at least 1, got {tuple(blocks)}")
        if n_classes < 0:
            raise ValueError(f"expected n_classes >= 0, got {n_classes}")
        self.in_channels, self.n_classes, self.time_scale = in_channels, n_classes, time_scale
        high, low = channels

        def stack(width: int, n: int) -> nn.ModuleList:
            return nn.ModuleList(ModulatedBlock(width, emb_channels, dropout) for _ in range(n))

        self.time_embed = SinusoidalTimeEmbedding(high)
        self.time_mlp = nn.Sequential(
            nn.Linear(high, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels), nn.SiLU()
        )
        self.class_embed = nn.Embedding(n_classes + 1, emb_channels) if n_classes else None
        self.stem = nn.Conv2d(4 * in_channels, high, kernel_size=3, padding=1)
        self.encoder_high = stack(high, blocks[0])
        self.down = nn.Conv2d(high, low, kernel_size=3, stride=2, padding=1)
        self.encoder_low = stack(low, blocks[1])
        self.attention1 = MultiHeadAttention(low)
        self.middle = ModulatedBlock(low, emb_channels, dropout)
        self.merge_low = nn.Conv2d(2 * low, low, kernel_size=1)
        self.decoder_low = stack(low, blocks[2])
        self.attention2 = MultiHeadAttention(low)
        self.up = nn.Conv2d(low, high, kernel_size=1)
        self.merge_high = nn.Conv2d(2 * high, high, kernel_size=1)
        self.decoder_high = stack(high, blocks[3])
        self.final_norm = _norm(high)
        self.final_conv = _zero(nn.Conv2d(high, 4 * out_channels, kernel_size=3, padding=1))

    def _check(self, x: Tensor, t: Tensor, label: Tensor | None) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}")
        if x.shape[2] % 4 or x.shape[3] % 4:
            raise ValueError(f"expected height and width divisible by 4, got {x.shape[2]}×{x.shape[3]}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"expected one time per image, shape ({x.shape[0]},), got {tuple(t.shape)}")
        if label is not None and self.class_embed is None:
            raise ValueError("expected no labels: this network was built without classes")
        if label is not None and label.shape != x.shape[:1]:
            raise ValueError(f"expected one label per image, shape ({x.shape[0]},), got {tuple(label.shape)}")

    def _embed(self, t: Tensor, label: Tensor | None) -> Tensor:
        time = self.time_embed(t * self.time_scale).to(self.time_mlp[0].weight.dtype)
        if self.class_embed is None:
            return self.time_mlp(time)
        if label is None:
            label = torch.full(t.shape, self.n_classes, device=t.device)
        inner, outer = self.time_mlp[:2], self.time_mlp[2:]
        return outer(inner(time) + self.class_embed(label))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (B, in_channels, H, W), times (B,), labels (B,) → (B, out_channels, H, W).

        Args:
            x: Height and width divisible by 4.
            t: Times, integers or floats.
            label: Classes from 0 to ``n_classes``, the last of which, like None, means "no class".

        Raises:
            ValueError: For other shapes, or labels given to a network without classes.
        """
        self._check(x, t, label)
        emb = self._embed(t, label)
        high = self.stem(F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last))
        for block in self.encoder_high:
            high = block(high, emb)
        low = self.down(high)
        for block in self.encoder_low:
            low = block(low, emb)
        h = self.middle(self.attention1(low), emb)
        h = self.merge_low(torch.cat([h, low], dim=1))
        for block in self.decoder_low:
            h = block(h, emb)
        h = F.interpolate(self.up(self.attention2(h)), scale_factor=2.0, mode="nearest")
        h = self.merge_high(torch.cat([h, high], dim=1))
        for block in self.decoder_high:
            h = block(h, emb)
        h = self.final_conv(F.silu(self.final_norm(h)))
        return F.pixel_shuffle(h, 2)
