"""Residual and attention blocks: against formulas written out here, PyTorch's kernels, and their own symmetries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.nn import AttentionBlock, ResidualBlock
from helpers.nn.blocks import check_channels


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """float64, in eval mode, with parameters that hide nothing: no unit scales, no zero shifts."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def _group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Image by image and group by group, from the definition."""

    def standardise(group: Tensor) -> Tensor:
        centred = group - group.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt()

    images = [torch.cat([standardise(group) for group in image.split(x.shape[1] // 8)]) for image in x]
    return torch.stack(images) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def _conv3(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Sum over the nine shifts of a zero-padded image."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    shifts = [
        torch.einsum("oc,bchw->bohw", conv.weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    ]
    return sum(shifts) + conv.bias.view(-1, 1, 1)


class TestResidualBlock:
    @pytest.mark.parametrize(("in_channels", "out_channels"), [(8, 8), (16, 8), (5, 24)])
    def test_is_the_formula(self, in_channels: int, out_channels: int) -> None:
        block = _randomise(ResidualBlock(in_channels, out_channels, 6))
        x, emb = _randn(2, in_channels, 5, 4), _randn(2, 6, seed=1)
        h = _group_norm(_conv3(x, block.conv1), block.norm1).clamp(min=0)
        shift = emb.clamp(min=0) @ block.time_mlp.weight.T + block.time_mlp.bias
        h = h + shift[:, :, None, None]
        h = _group_norm(_conv3(h, block.conv2), block.norm2).clamp(min=0)
        skip = x
        if in_channels != out_channels:
            weight, bias = block.residual_conv.weight[:, :, 0, 0], block.residual_conv.bias
            skip = torch.einsum("oc,bchw->bohw", weight, x) + bias.view(-1, 1, 1)
        torch.testing.assert_close(block(x, emb), h + skip, rtol=1e-10, atol=1e-10)

    def test_attribute_names_and_shapes_are_the_assignments(self) -> None:
        shapes = {name: tuple(value.shape) for name, value in ResidualBlock(16, 24, 40).state_dict().items()}
        assert shapes == {
            "conv1.weight": (24, 16, 3, 3),
            "conv1.bias": (24,),
            "conv2.weight": (24, 24, 3, 3),
            "conv2.bias": (24,),
            "time_mlp.weight": (24, 40),
            "time_mlp.bias": (24,),
            "norm1.weight": (24,),
            "norm1.bias": (24,),
            "norm2.weight": (24,),
            "norm2.bias": (24,),
            "residual_conv.weight": (24, 16, 1, 1),
            "residual_conv.bias": (24,),
        }

    def test_carries_its_input_by_the_identity_where_widths_agree(self) -> None:
        block = _randomise(ResidualBlock(16, 16, 6))
        assert list(block.residual_conv.parameters()) == []
        nn.init.zeros_(block.norm2.weight)
        nn.init.constant_(block.norm2.bias, -1.0)  # the ReLU closes the branch
        x = _randn(2, 16, 4, 4)
        torch.testing.assert_close(block(x, _randn(2, 6)), x, rtol=0, atol=0)

    def test_the_branch_is_never_negative(self) -> None:
        block = _randomise(ResidualBlock(16, 16, 6), seed=3)
        x = _randn(4, 16, 6, 6)
        branch = block(x, _randn(4, 6)) - x
        assert branch.min() > -1e-12
        assert branch.max() > 0.1

    def test_time_shifts_each_channel_alike_at_all_positions(self) -> None:
        block = _randomise(ResidualBlock(8, 8, 6))
        seen: list[Tensor] = []
        block.conv2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        x, first, second = _randn(1, 8, 4, 4), _randn(1, 6, seed=1), _randn(1, 6, seed=2)
        assert (block(x, first) - block(x, second)).abs().max() > 1e-3
        difference = seen[0] - seen[1]
        expected = block.time_mlp(first.clamp(min=0)) - block.time_mlp(second.clamp(min=0))
        torch.testing.assert_close(difference, expected[:, :, None, None].expand_as(difference))

    def test_images_of_a_batch_do_not_mix(self) -> None:
        block = _randomise(ResidualBlock(8, 16, 6))
        x, emb = _randn(3, 8, 4, 4), _randn(3, 6)
        alone = torch.cat([block(x[i : i + 1], emb[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(block(x, emb), alone)

    def test_dropout_acts_in_training_only(self) -> None:
        block = _randomise(ResidualBlock(8, 8, 6, dropout=0.5))
        x, emb = _randn(2, 8, 8, 8), _randn(2, 6)
        kept = block(x, emb)
        assert torch.equal(kept, block(x, emb))
        block.train()
        dropped = block(x, emb)
        assert not torch.equal(kept, dropped)
        open_branch = (kept - x) > 1e-9
        zero = ((dropped - x)[open_branch].abs() < 1e-9).double().mean().item()
        n = int(open_branch.sum())
        assert abs(zero - 0.5) < 4 * (0.25 / n) ** 0.5
        scaled = (dropped - x)[open_branch] / (kept - x)[open_branch]
        torch.testing.assert_close(scaled[scaled > 1e-9], torch.full_like(scaled[scaled > 1e-9], 2.0))

    @pytest.mark.parametrize("out_channels", [0, 4, 12, -8])
    def test_refuses_widths_that_the_norm_cannot_group(self, out_channels: int) -> None:
        with pytest.raises(ValueError, match=rf"out_channels to be a positive multiple of 8.*got {out_channels}"):
            ResidualBlock(8, out_channels, 6)


class TestAttentionBlock:
    def _qkv(self, block: AttentionBlock, x: Tensor) -> list[Tensor]:
        """(B, HW, C) each, from the definition of a 1×1 convolution."""
        tokens = _group_norm(x, block.norm).flatten(2).transpose(1, 2)
        return list((tokens @ block.qkv.weight[:, :, 0, 0].T + block.qkv.bias).split(x.shape[1], dim=2))

    @pytest.mark.parametrize(("channels", "height", "width"), [(8, 3, 3), (24, 4, 5), (16, 1, 7)])
    def test_is_torchs_attention(self, channels: int, height: int, width: int) -> None:
        block = _randomise(AttentionBlock(channels))
        x = _randn(2, channels, height, width)
        mixed = F.scaled_dot_product_attention(*self._qkv(block, x))
        projected = mixed @ block.proj.weight[:, :, 0, 0].T + block.proj.bias
        expected = x + projected.transpose(1, 2).reshape(x.shape)
        torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)

    def test_attention_map_is_the_softmax_and_its_rows_sum_to_one(self) -> None:
        block = _randomise(AttentionBlock(16))
        x = _randn(2, 16, 4, 3)
        q, k, _ = self._qkv(block, x)
        weights = (torch.einsum("bnc,bmc->bnm", q, k) / 4).exp()
        expected = weights / weights.sum(dim=2, keepdim=True)
        found = block.attention_map(x)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.sum(dim=2), torch.ones(2, 12, dtype=torch.float64))
        assert (found.sum(dim=1) - 1).abs().max() > 0.1  # rows, not columns

    def test_is_permutation_equivariant(self) -> None:
        block = _randomise(AttentionBlock(16))
        x = _randn(2, 16, 4, 6)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(5))

        def shuffle(picture: Tensor) -> Tensor:
            return picture.flatten(2)[:, :, order].reshape(picture.shape)

        torch.testing.assert_close(block(shuffle(x)), shuffle(block(x)), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(block.attention_map(shuffle(x)), block.attention_map(x)[:, order][:, :, order])

    def test_every_position_sees_every_other(self) -> None:
        block = _randomise(AttentionBlock(8))
        x = _randn(1, 8, 4, 4).requires_grad_()
        (gradient,) = torch.autograd.grad(block(x)[0, :, 0, 0].square().sum(), x)
        assert (gradient.abs().amax(dim=1) > 1e-8).all()

    def test_carries_its_input(self) -> None:
        block = _randomise(AttentionBlock(8))
        nn.init.zeros_(block.proj.weight)
        nn.init.zeros_(block.proj.bias)
        x = _randn(2, 8, 3, 3)
        torch.testing.assert_close(block(x), x, rtol=0, atol=0)

    def test_survives_large_logits(self) -> None:
        block = _randomise(AttentionBlock(8)).float()
        with torch.no_grad():
            block.qkv.weight.mul_(1e3)
        assert torch.isfinite(block(_randn(1, 8, 4, 4).float())).all()

    def test_attribute_names_and_shapes_are_the_assignments(self) -> None:
        shapes = {name: tuple(value.shape) for name, value in AttentionBlock(16).state_dict().items()}
        assert shapes == {
            "norm.weight": (16,),
            "norm.bias": (16,),
            "qkv.weight": (48, 16, 1, 1),
            "qkv.bias": (48,),
            "proj.weight": (16, 16, 1, 1),
            "proj.bias": (16,),
        }

    @pytest.mark.parametrize("channels", [0, 7, 20])
    def test_refuses_widths_that_the_norm_cannot_group(self, channels: int) -> None:
        with pytest.raises(ValueError, match=rf"channels to be a positive multiple of 8.*got {channels}"):
            AttentionBlock(channels)


def test_check_channels_names_the_argument() -> None:
    check_channels(width=8, other=64)
    with pytest.raises(ValueError, match="other"):
        check_channels(width=8, other=9)


@pytest.mark.parametrize("block", [ResidualBlock(8, 8, 6), ResidualBlock(8, 16, 6), AttentionBlock(8)])
def test_gradients_are_right(block: nn.Module) -> None:
    """Autograd against finite differences, along one random direction of input and parameters."""
    block = _randomise(block)
    x, emb = _randn(1, 8, 3, 4), _randn(1, 6)
    inputs = (x.requires_grad_(), emb.requires_grad_()) if isinstance(block, ResidualBlock) else (x.requires_grad_(),)
    tensors = [*inputs, *block.parameters()]

    def loss() -> Tensor:
        return block(*inputs).square().mean()

    gradients = torch.autograd.grad(loss(), tensors)
    directions = [_randn(*tensor.shape, seed=i) for i, tensor in enumerate(tensors)]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    step, ends = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):  # forward from the middle, then back past it
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.add_(direction, alpha=sign * step)
            ends.append(loss())
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-6, atol=1e-9)
