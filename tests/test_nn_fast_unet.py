"""FastUNet: what it computes, how it starts, what it refuses, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from helpers.nn import FastUNet, sinusoidal_embedding
from helpers.nn.fast_unet import ModulatedBlock, MultiHeadAttention


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _awake(module: nn.Module, seed: int = 1) -> nn.Module:
    """With the layers that start at zero made random, so that everything has a say; in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.double().parameters():
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def _small(awake: bool = True, **options: object) -> FastUNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = FastUNet(**{"n_classes": 3, "channels": (64, 128), "blocks": (1, 1, 1, 1), "emb_channels": 32, **options})
    return (_awake(net) if awake else net).eval()


GOLDEN_PARAMETERS, GOLDEN_FLOPS = 9_882_252, 1_377_173_504
X, T, LABEL = _randn(3, 3, 8, 12), torch.tensor([-0.7, 0.1, 0.9], dtype=torch.float64), torch.tensor([0, 2, 3])


def _parts(net: nn.Module) -> Iterator[tuple[str, ModulatedBlock | MultiHeadAttention]]:
    for name, module in net.named_modules():
        if isinstance(module, (ModulatedBlock, MultiHeadAttention)):
            yield name, module


# ── shapes ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12), (32, 32)])
@pytest.mark.parametrize(("into", "out"), [(3, 3), (1, 2)])
def test_shape_and_dtype(height: int, width: int, into: int, out: int) -> None:
    net = _small(awake=False, in_channels=into, out_channels=out)
    x = _randn(2, into, height, width, dtype=torch.float32)
    result = net(x, torch.tensor([1, 2]), torch.tensor([0, 3]))
    assert result.shape == (2, out, height, width)
    assert result.dtype == torch.float32


def test_times_may_be_integers_and_networks_float64() -> None:
    net = _small()
    torch.testing.assert_close(net(X, torch.tensor([1, 2, 3])), net(X, torch.tensor([1.0, 2.0, 3.0])), rtol=0, atol=0)


# ── the start ─────────────────────────────────────────────────────────────


def test_every_block_starts_as_the_identity() -> None:
    net = _small(awake=False).train()
    x, emb = _randn(2, 128, 4, 4, dtype=torch.float32), _randn(2, 32, seed=1, dtype=torch.float32)
    parts = dict(_parts(net))
    assert len(parts) == 7  # four stacks of one block, one in the middle, two attentions
    for name, part in parts.items():
        h = x[:, : part.norm.num_channels if isinstance(part, MultiHeadAttention) else part.norm1.num_channels]
        given = (h,) if isinstance(part, MultiHeadAttention) else (h, emb)
        assert torch.equal(part(*given), h), name


def test_the_network_starts_at_zero() -> None:
    assert not _small(awake=False).double()(X, T, LABEL).any()


# ── what it computes ──────────────────────────────────────────────────────


def test_a_block_is_what_its_docstring_says() -> None:
    block = _awake(ModulatedBlock(32, 5))
    x, emb = _randn(2, 32, 4, 6), _randn(2, 5, seed=1)
    scale, shift = F.linear(emb, block.modulation.weight, block.modulation.bias).split(32, dim=1)
    h = F.group_norm(x, 2, block.norm1.weight, block.norm1.bias)
    h = F.conv2d(h * h.sigmoid(), block.conv1.weight, block.conv1.bias, padding=1)
    h = F.group_norm(h, 2, block.norm2.weight, block.norm2.bias)
    h = h * (1 + scale)[..., None, None] + shift[..., None, None]
    h = F.conv2d(h * h.sigmoid(), block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x, emb), x + h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [64, 128])
def test_attention_is_torchs(channels: int) -> None:
    attention = _awake(MultiHeadAttention(channels))
    x = 3 * _randn(2, channels, 2, 3)
    tokens = attention.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
    q, k, v = (part.unflatten(2, (-1, 64)).transpose(1, 2) for part in attention.qkv(tokens).chunk(3, dim=2))
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    expected = x + attention.proj(mixed).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=1e-12)


def test_attention_moves_with_the_positions() -> None:
    attention, x = _awake(MultiHeadAttention(64)), _randn(1, 64, 2, 3)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    moved = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(attention(moved).flatten(2), attention(x).flatten(2)[..., order], rtol=1e-12, atol=1e-12)


def test_the_network_is_its_parts_wired_as_described() -> None:
    """The same forward pass written down from the module's description, skips and all."""
    net = _small(blocks=(1, 2, 1, 2), time_scale=3.0)
    emb = F.linear(sinusoidal_embedding(3 * T, 64), net.time_mlp[0].weight, net.time_mlp[0].bias)
    emb = F.silu(net.time_mlp[2](F.silu(emb) + net.class_embed.weight[LABEL]))
    b, c, h, w = X.shape
    folded = X.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
    high = net.encoder_high[0](net.stem(folded), emb)
    low = net.encoder_low[1](net.encoder_low[0](net.down(high), emb), emb)
    y = net.middle(net.attention1(low), emb)
    y = net.attention2(net.decoder_low[0](net.merge_low(torch.cat([y, low], dim=1)), emb))
    y = net.up(y).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    y = net.decoder_high[1](net.decoder_high[0](net.merge_high(torch.cat([y, high], dim=1)), emb), emb)
    y = net.final_conv(F.silu(net.final_norm(y)))
    y = y.reshape(b, c, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3).reshape(b, c, h, w)
    assert y.abs().mean() > 0.01
    torch.testing.assert_close(net(X, T, LABEL), y, rtol=1e-10, atol=1e-10)


def test_time_and_class_matter() -> None:
    net = _small()
    base = net(X, T, LABEL)
    for other in (net(X, T + 0.3, LABEL), net(X, T, (LABEL + 1) % 4)):
        change = (other - base).flatten(1).abs().amax(1)
        assert (change > 1e-3).all()  # of each image


def test_no_label_is_the_label_one_past_the_last_class() -> None:
    net = _small()
    assert torch.equal(net(X, T), net(X, T, torch.full((3,), 3)))


def test_a_network_without_classes() -> None:
    net = _small(n_classes=0)
    assert net(X, T).shape == X.shape
    assert not any("class" in name for name in net.state_dict())


def test_images_do_not_see_each_other() -> None:
    net = _small()
    together = net(X, T, LABEL)
    for k in range(3):
        torch.testing.assert_close(
            net(X[k : k + 1], T[k : k + 1], LABEL[k : k + 1])[0], together[k], rtol=0, atol=1e-12
        )


def test_gradients_reach_every_parameter_and_the_image() -> None:
    net = _small().train()
    x = X.clone().requires_grad_()
    (net(x, T, LABEL) - _randn(*X.shape, seed=5)).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        rows = parameter.grad.flatten(1).abs().amax(1) if parameter.ndim > 1 else parameter.grad.abs()
        if name == "class_embed.weight":
            assert (rows > 0).tolist() == [True, False, True, True]  # classes 0, 2 and none
        else:
            assert rows.max() > 1e-9, name
    assert (x.grad.flatten(1).abs().amax(1) > 0).all()


def test_the_gradient_is_the_derivative() -> None:
    net, direction = _small(), _randn(*X.shape, seed=3)
    x = X.clone().requires_grad_()
    weights = _randn(*X.shape, seed=4)
    (slope,) = torch.autograd.grad((net(x, T, LABEL) * weights).sum(), x)
    h = 1e-5
    with torch.no_grad():
        difference = ((net(X + h * direction, T, LABEL) - net(X - h * direction, T, LABEL)) * weights).sum() / (2 * h)
    torch.testing.assert_close((slope * direction).sum(), difference, rtol=1e-7, atol=1e-8)


def test_dropout_acts_in_training_only() -> None:
    net = _small(dropout=0.5)
    assert torch.equal(net(X, T), net(X, T))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net.train()
        assert not torch.allclose(net(X, T), net(X, T))


# ── layouts and types ─────────────────────────────────────────────────────


def test_the_memory_layout_does_not_matter() -> None:
    net = _small()
    expected = net(X, T, LABEL)
    net.to(memory_format=torch.channels_last)
    given = X.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(given, T, LABEL), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(net(X, T, LABEL), expected, rtol=0, atol=1e-12)


def test_inside_maps_are_channels_last_whatever_came_in() -> None:
    """Attention reads them as tokens without a copy."""
    net, layouts = _small(), []
    for _, part in _parts(net):
        part.register_forward_hook(
            lambda module, given, result: layouts.append(given[0].is_contiguous(memory_format=torch.channels_last))
        )
    net.float()(X.float(), T.float(), LABEL)  # with weights in the plain layout too
    assert layouts == [True] * 7


def test_bfloat16_is_close_to_float32() -> None:
    """bfloat16 rounds by 2⁻⁹ = 0.2 %; through some 20 roundings in a row that is about 1 % of the output's size."""
    net = _small().float().to(memory_format=torch.channels_last)
    x, t = X.float(), T.float()
    with torch.no_grad():
        exact = net(x, t, LABEL)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = net(x, t, LABEL)
    error = (rounded.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-4 < error < 0.03  # and it was at work


# ── cost ──────────────────────────────────────────────────────────────────


def test_nothing_is_computed_at_full_resolution() -> None:
    net, sizes = _small(), []
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.GroupNorm, MultiHeadAttention)):
            module.register_forward_hook(
                lambda module, given, result: sizes.append((type(module).__name__, result.shape[2:].numel()))
            )
    net(X, T, LABEL)
    assert max(size for _, size in sizes) == 8 * 12 // 4
    assert {size for name, size in sizes if name == "MultiHeadAttention"} == {8 * 12 // 16}


def _expected_parameters(high: int, low: int, blocks: tuple[int, ...], emb: int, n_classes: int) -> int:
    """Counted from the description: a layer of n → m with k × k kernels has (n k² + 1) m."""

    def layer(n: int, m: int, k: int = 1) -> int:
        return (n * k * k + 1) * m

    def block(c: int) -> int:
        return 2 * layer(c, c, 3) + layer(emb, 2 * c) + 2 * 2 * c

    attention = 2 * low + layer(low, 3 * low) + layer(low, low)
    embedding = layer(high, emb) + layer(emb, emb) + (n_classes + 1) * emb
    ends = layer(12, high, 3) + 2 * high + layer(high, 12, 3)
    between = layer(high, low, 3) + layer(2 * low, low) + layer(low, high) + layer(2 * high, high)
    n_high, n_low = blocks[0] + blocks[3], blocks[1] + 1 + blocks[2]
    return n_high * block(high) + n_low * block(low) + 2 * attention + embedding + ends + between


def test_the_default_has_as_many_parameters_as_its_description() -> None:
    """A golden number beside the sum: whoever changes the default changes every shipped file and every benchmark."""
    expected = _expected_parameters(128, 256, (1, 2, 2, 2), 512, 10)
    with torch.device("meta"):
        net = FastUNet(n_classes=10)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected == GOLDEN_PARAMETERS


def test_the_default_costs_as_much_as_its_description() -> None:
    """Twice the multiply-adds of each convolution, linear map and matrix product at 3 × 32 × 32."""
    high, low, emb = 128, 256, 512
    at_high = 9 * 12 * high + 3 * 18 * high**2 + 2 * high**2 + 9 * 12 * high  # stem, blocks, merge, end
    at_low = 9 * high * low + 5 * 18 * low**2 + 2 * low**2 + low * high  # down, blocks, merge, up
    attention = 2 * (4 * low**2 + 2 * 64 * low)  # per position: four maps; QKᵀ and its product with V over 64 positions
    vectors = high * emb + emb**2 + 3 * emb * 2 * high + 5 * emb * 2 * low
    with torch.device("meta"):
        net, x, t = FastUNet(n_classes=10), torch.empty(1, 3, 32, 32), torch.empty(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x, t, torch.zeros(1, dtype=torch.long))
    assert counter.get_total_flops() == 2 * (256 * at_high + 64 * (at_low + attention) + vectors) == GOLDEN_FLOPS


# ── what is refused ───────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"channels": (64,)}, r"two widths that are multiples of 64, got \(64,\)"),
        ({"channels": (64, 100)}, r"two widths that are multiples of 64, got \(64, 100\)"),
        ({"channels": (0, 64)}, "two widths that are multiples of 64"),
        ({"blocks": (1, 1, 1)}, "four numbers of blocks"),
        ({"blocks": (1, 0, 1, 1)}, "four numbers of blocks, each at least 1"),
        ({"n_classes": -1}, "n_classes >= 0, got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"expected {named}"):
        FastUNet(**options)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((X[0], T), r"images of shape \(B, 3, H, W\), got \(3, 8, 12\)"),
        ((X[:, :1], T), r"images of shape \(B, 3, H, W\), got \(3, 1, 8, 12\)"),
        ((X[..., :10], T), "height and width divisible by 4, got 8×10"),
        ((X, T[:2]), r"one time per image, shape \(3,\), got \(2,\)"),
        ((X, T[:, None]), r"one time per image, shape \(3,\), got \(3, 1\)"),
        ((X, T, LABEL[:1]), r"one label per image, shape \(3,\), got \(1,\)"),
    ],
)
def test_input_that_does_not_fit_is_refused(arguments: tuple[Tensor, ...], named: str) -> None:
    with pytest.raises(ValueError, match=f"expected {named}"):
        _small()(*arguments)


def test_labels_for_a_network_without_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected no labels"):
        _small(n_classes=0)(X, T, LABEL)
