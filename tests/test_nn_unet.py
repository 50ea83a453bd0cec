"""SimpleUNet: the assignment's names, shapes and numbers, its wiring, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.nn import SimpleUNet


def _conv(name: str, out_channels: int, in_channels: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out_channels, in_channels, kernel, kernel), f"{name}.bias": (out_channels,)}


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _linear(name: str, out_features: int, in_features: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out_features, in_features), f"{name}.bias": (out_features,)}


def _residual(name: str, in_channels: int, out_channels: int, emb: int) -> dict[str, tuple[int, ...]]:
    table = {
        **_conv(f"{name}.conv1", out_channels, in_channels, 3),
        **_conv(f"{name}.conv2", out_channels, out_channels, 3),
        **_linear(f"{name}.time_mlp", out_channels, emb),
        **_norm(f"{name}.norm1", out_channels),
        **_norm(f"{name}.norm2", out_channels),
    }
    if in_channels != out_channels:
        table |= _conv(f"{name}.residual_conv", out_channels, in_channels, 1)
    return table


def _table(c: int, time_emb_dim: int, images: int = 3) -> dict[str, tuple[int, ...]]:
    """Name → shape at width c, written down from the assignment's description and not from our module."""
    emb = 4 * time_emb_dim
    return {
        **_linear("time_embed.1", emb, time_emb_dim),
        **_linear("time_embed.3", emb, emb),
        **_conv("init_conv", c, images, 3),
        **_residual("down1", c, 2 * c, emb),
        **_conv("downsample1", 2 * c, 2 * c, 3),
        **_residual("down2", 2 * c, 4 * c, emb),
        **_conv("downsample2", 4 * c, 4 * c, 3),
        **_residual("mid1", 4 * c, 4 * c, emb),
        **_norm("mid_attn.norm", 4 * c),
        **_conv("mid_attn.qkv", 12 * c, 4 * c, 1),
        **_conv("mid_attn.proj", 4 * c, 4 * c, 1),
        **_residual("mid2", 4 * c, 4 * c, emb),
        **_conv("upsample1", 4 * c, 4 * c, 4),
        **_residual("up1", 8 * c, 2 * c, emb),
        **_conv("upsample2", 2 * c, 2 * c, 4),
        **_residual("up2", 4 * c, c, emb),
        **_norm("final_norm", c),
        **_conv("final_conv", images, c, 3),
    }


ASSIGNMENT = _table(64, 128)


def _small(**options: int | float) -> SimpleUNet:
    torch.manual_seed(0)
    return SimpleUNet(**{"in_channels": 1, "out_channels": 1, "time_emb_dim": 16, "base_channels": 8, **options}).eval()


def _randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TestTheAssignments:
    def test_parameters(self) -> None:
        assert sum(parameter.numel() for parameter in SimpleUNet().parameters()) == 7_719_747

    def test_names_and_shapes(self) -> None:
        assert {name: tuple(value.shape) for name, value in SimpleUNet().state_dict().items()} == ASSIGNMENT

    def test_a_state_dict_of_those_names_loads_strictly(self) -> None:
        foreign = {name: torch.randn(shape) for name, shape in ASSIGNMENT.items()}
        net = SimpleUNet()
        net.load_state_dict(foreign, strict=True)
        assert all(torch.equal(value, foreign[name]) for name, value in net.state_dict().items())

    def test_output_for_two_images(self) -> None:
        net = SimpleUNet().eval()
        with torch.no_grad():
            out = net(_randn(2, 3, 32, 32), torch.tensor([0, 100]))
        assert out.shape == (2, 3, 32, 32)
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()


def _residual_block(net_state: dict[str, Tensor], name: str, x: Tensor, emb: Tensor) -> Tensor:
    """The block from the state dict alone, by functional calls."""
    p = {key.removeprefix(f"{name}."): value for key, value in net_state.items() if key.startswith(f"{name}.")}

    def conv_norm_relu(number: int, h: Tensor) -> Tensor:
        h = F.conv2d(h, p[f"conv{number}.weight"], p[f"conv{number}.bias"], padding=1)
        return F.relu(F.group_norm(h, 8, p[f"norm{number}.weight"], p[f"norm{number}.bias"]))

    shift = F.linear(F.relu(emb), p["time_mlp.weight"], p["time_mlp.bias"])[..., None, None]
    h = conv_norm_relu(2, conv_norm_relu(1, x) + shift)
    if "residual_conv.weight" in p:
        x = F.conv2d(x, p["residual_conv.weight"], p["residual_conv.bias"])
    return h + x


def _whole_net(p: dict[str, Tensor], x: Tensor, t: Tensor, time_emb_dim: int) -> Tensor:
    """A second wiring of the network, from the state dict alone."""
    angles = t[:, None] * 10_000.0 ** (-torch.arange(time_emb_dim // 2, dtype=x.dtype) / (time_emb_dim // 2))
    emb = torch.cat([angles.sin(), angles.cos()], dim=1)
    emb = F.linear(emb, p["time_embed.1.weight"], p["time_embed.1.bias"]).relu()
    emb = F.linear(emb, p["time_embed.3.weight"], p["time_embed.3.bias"])

    def conv(name: str, h: Tensor, stride: int = 1) -> Tensor:
        weight = p[f"{name}.weight"]
        return F.conv2d(h, weight, p[f"{name}.bias"], stride=stride, padding=weight.shape[2] // 2)

    def up(name: str, h: Tensor) -> Tensor:
        return F.conv_transpose2d(h, p[f"{name}.weight"], p[f"{name}.bias"], stride=2, padding=1)

    def block(name: str, h: Tensor) -> Tensor:
        return _residual_block(p, name, h, emb)

    large = block("down1", conv("init_conv", x))
    middle = block("down2", conv("downsample1", large, 2))
    h = block("mid1", conv("downsample2", middle, 2))
    tokens = conv("mid_attn.qkv", F.group_norm(h, 8, p["mid_attn.norm.weight"], p["mid_attn.norm.bias"]))
    q, k, v = tokens.flatten(2).transpose(1, 2).split(h.shape[1], dim=2)
    h = h + conv("mid_attn.proj", F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(h.shape))
    h = block("up1", torch.cat([up("upsample1", block("mid2", h)), middle], dim=1))
    h = block("up2", torch.cat([up("upsample2", h), large], dim=1))
    return conv("final_conv", F.group_norm(h, 8, p["final_norm.weight"], p["final_norm.bias"]).relu())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 12), (16, 8)])
def test_wiring_against_a_second_implementation(height: int, width: int) -> None:
    net = _small(in_channels=3, out_channels=2).double()
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(0.3 * _randn(*parameter.shape, seed=i, dtype=torch.float64))
    x, t = _randn(3, 3, height, width, dtype=torch.float64), torch.tensor([0, 7, 999])
    out = net(x, t)
    assert out.shape == (3, 2, height, width)
    torch.testing.assert_close(out, _whole_net(net.state_dict(), x, t, 16), rtol=1e-9, atol=1e-9)


def test_a_float64_network_takes_integer_times_in_float64() -> None:
    net = _small().double()
    x, t = _randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([3, 700])
    assert torch.equal(net(x, t), net(x, t.double()))
    assert net(x, t).dtype == torch.float64


def test_time_matters_and_each_image_has_its_own() -> None:
    net = _small()
    x = _randn(1, 1, 8, 8).expand(2, -1, -1, -1)
    same, different = net(x, torch.tensor([5, 5])), net(x, torch.tensor([5, 500]))
    torch.testing.assert_close(same[0], same[1])
    assert (different[0] - different[1]).abs().max() > 1e-3
    torch.testing.assert_close(different[0], same[0])


def test_images_of_a_batch_do_not_mix() -> None:
    net = _small().double()
    x, t = _randn(3, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 10, 100])
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, t), alone)


def test_eval_is_deterministic_and_training_drops_out() -> None:
    net = _small(dropout=0.5)
    x, t = _randn(2, 1, 8, 8), torch.tensor([1, 2])
    assert torch.equal(net(x, t), net(x, t))
    net.train()
    assert not torch.equal(net(x, t), net(x, t))
    dry = _small(dropout=0.0).train()
    assert torch.equal(dry(x, t), dry(x, t))


def test_gradient_reaches_every_parameter() -> None:
    net = _small().double().train()
    x, t = _randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 50, 999])
    (net(x, t) - _randn(4, 1, 8, 8, seed=1, dtype=torch.float64)).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert without == []


def test_gradient_reaches_every_pixel() -> None:
    net = _small()
    x = _randn(1, 1, 16, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, torch.tensor([3]))[0, 0, 0, 0], x)
    assert (gradient != 0).all()


@pytest.mark.parametrize("base_channels", [8, 16, 40])
def test_base_channels_scale_every_width(base_channels: int) -> None:
    net = SimpleUNet(in_channels=1, out_channels=1, time_emb_dim=16, base_channels=base_channels)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes == _table(base_channels, 16, images=1)
    assert net.eval()(_randn(1, 1, 8, 8), torch.tensor([0])).shape == (1, 1, 8, 8)


class TestRefuses:
    @pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 30), (7, 8), (8, 9)])
    def test_sizes_not_divisible_by_4(self, height: int, width: int) -> None:
        with pytest.raises(ValueError, match=rf"divisible by 4.*got {height}×{width}"):
            _small()(_randn(1, 1, height, width), torch.tensor([0]))

    def test_wrong_channels(self) -> None:
        with pytest.raises(ValueError, match=r"shape \(B, 1, H, W\), got \(2, 3, 8, 8\)"):
            _small()(_randn(2, 3, 8, 8), torch.tensor([0, 1]))

    def test_a_single_image_without_batch(self) -> None:
        with pytest.raises(ValueError, match=r"got \(1, 8, 8\)"):
            _small()(_randn(1, 8, 8), torch.tensor([0]))

    @pytest.mark.parametrize("t", [torch.tensor(0), torch.tensor([0]), torch.tensor([[0], [1]]), torch.arange(3)])
    def test_not_one_time_per_image(self, t: Tensor) -> None:
        with pytest.raises(ValueError, match=r"one timestep per image, shape \(2,\)"):
            _small()(_randn(2, 1, 8, 8), t)

    @pytest.mark.parametrize("base_channels", [0, 4, 60])
    def test_base_channels_that_the_norm_cannot_group(self, base_channels: int) -> None:
        with pytest.raises(ValueError, match=f"base_channels to be a positive multiple of 8.*got {base_channels}"):
            SimpleUNet(base_channels=base_channels)

    def test_an_odd_time_embedding(self) -> None:
        with pytest.raises(ValueError, match="even embedding_dim"):
            SimpleUNet(time_emb_dim=15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time", [torch.int64, torch.float32, torch.float64])
def test_times_of_any_type_fit_networks_of_any_type(dtype: torch.dtype, time: torch.dtype) -> None:
    network, x = SimpleUNet(1, 1, 16, 8).to(dtype), torch.zeros(2, 1, 8, 8, dtype=dtype)
    assert network(x, torch.tensor([1, 2]).to(time)).dtype == dtype
