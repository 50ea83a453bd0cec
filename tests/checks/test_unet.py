"""Right answers of different style pass the checks of lesson 2; each wrong one is called by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers import checks
from helpers.checks import unet


def _heads(x, norm, qkv, proj, heads, *, root=None, axis=-1, interleaved=False):
    """Another formulation than the check's own: one head at a time."""
    B, C, H, W = x.shape
    q, k, v = qkv(norm(x)).flatten(2).chunk(3, dim=1)
    out = torch.zeros_like(q)
    for head in range(heads):
        mine = slice(head, None, heads) if interleaved else slice(head * C // heads, (head + 1) * C // heads)
        logits = torch.einsum("bcn,bcm->bnm", q[:, mine], k[:, mine]) / (root or math.sqrt(C / heads))
        out[:, mine] = torch.einsum("bnm,bcm->bcn", logits.softmax(axis), v[:, mine])
    return out.reshape(B, C, H, W)


def _fused(x, norm, qkv, proj, heads):
    B, C, H, W = x.shape
    q, k, v = qkv(norm(x)).reshape(B, 3, heads, C // heads, H * W).transpose(3, 4).unbind(1)
    return x + proj(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(B, C, H, W))


def _mixed_up(x, norm, qkv, proj, heads):
    B, C, H, W = x.shape
    q, k, v = qkv(norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
    mixed = torch.softmax(q @ k.transpose(1, 2) / C**0.5, dim=2) @ v
    return x + proj(mixed.reshape(B, C, H, W))


def _swapped(x, norm, qkv, proj, heads):
    B, C, H, W = x.shape
    k, q, v = qkv(norm(x)).reshape(B, 3, heads, C // heads, H * W).transpose(3, 4).unbind(1)
    return x + proj(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(B, C, H, W))


def _split_by_reshape(x, norm, qkv, proj, heads, *, put_back=lambda mixed: mixed, rows=False):
    B, C, H, W = x.shape
    parts = qkv(norm(x)).flatten(2).chunk(3, dim=1)
    parts = [part.transpose(1, 2) for part in parts] if rows else parts
    q, k, v = (part.reshape(B, heads, H * W, C // heads) for part in parts)
    mixed = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(C // heads), dim=3) @ v
    return x + proj(put_back(mixed).reshape(B, C, H, W))


def _qkv_of_each_head(x, norm, qkv, proj, heads):
    B, C, H, W = x.shape
    q, k, v = qkv(norm(x)).reshape(B, heads, 3 * C // heads, H * W).transpose(2, 3).chunk(3, dim=3)
    return x + proj(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(B, C, H, W))


def _softmax_over_heads(x, norm, qkv, proj, heads):
    B, C, H, W = x.shape
    q, k, v = qkv(norm(x)).reshape(B, 3, heads, C // heads, H * W).transpose(3, 4).unbind(1)
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(C // heads), dim=1)
    return x + proj((weights @ v).transpose(2, 3).reshape(x.shape))


def _unnormalised_logits(x, norm, qkv, proj, heads):
    q, k, v = qkv(norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
    mixed = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5) @ v
    return x + proj(mixed.transpose(1, 2).reshape(x.shape))


def _cost(c, o, k, s, p, H, W):
    h, w = (H + 2 * p - k) // s + 1, (W + 2 * p - k) // s + 1
    return SimpleNamespace(weights=c * o * k * k, bias=o, positions=h * w, inputs=H * W)


def _cost_by_torch(c, o, k, s, p, H, W):
    conv = torch.nn.Conv2d(c, o, k, s, p)
    out = conv(torch.zeros(1, c, H, W))
    return torch.tensor(sum(q.numel() for q in conv.parameters())), 2 * conv.weight.numel() * out[0, 0].numel()


def _cost_plain(c, o, k, s, p, H, W):
    cost = _cost(c, o, k, s, p, H, W)
    return cost.weights + cost.bias, 2 * cost.weights * cost.positions


def _field(chain):
    side, jump = 1, 1
    for kernel, stride in chain:
        side += (kernel - 1) * jump
        jump *= stride
    return side


def _field_from_the_output(chain):
    side = 1
    for kernel, stride in reversed(chain):
        side = stride * side + kernel - stride
    return torch.tensor(side)


def _field_as_a_sum(chain):
    kernels, strides = np.array(chain).T
    return 1 + ((kernels - 1) * np.concatenate([[1], np.cumprod(strides)[:-1]])).sum()


def _field_with(chain, side=1, minus=1, early=False):
    jump = 1
    for kernel, stride in chain:
        jump = jump * stride if early else jump
        side += (kernel - minus) * jump
        jump = jump if early else jump * stride
    return side


def _field_with_jumps_added(chain):
    side, jump = 1, 1
    for kernel, stride in chain:
        side += (kernel - 1) * jump
        jump += stride - 1
    return side


def _floor_by_loop(x, target):
    errors = [max(a - b, 0.0) ** 2 for a, b in zip(x.flatten().tolist(), target.flatten().tolist(), strict=True)]
    return sum(errors) / len(errors)


RIGHT: dict[str, list[Callable[..., Any]]] = {
    "2.1": [
        lambda H, k, s, p, d: (H + 2 * p - d * (k - 1) - 1) // s + 1,
        lambda H, k, s, p, d: len(range(0, H + 2 * p - (d * (k - 1) + 1) + 1, s)),
        lambda H, k, s, p, d: torch.tensor(math.floor((H + 2 * p - d * (k - 1) - 1) / s + 1)),
    ],
    "2.2": [
        _fused,
        lambda x, norm, qkv, proj, heads: x + proj(_heads(x, norm, qkv, proj, heads)),
    ],
    "2.3": [
        lambda x, target: F.relu(x - target).square().mean(),
        _floor_by_loop,
        lambda x, target: float(np.mean((np.maximum(target.numpy(), x.numpy()) - target.numpy()) ** 2)),
    ],
    "2.4": [_cost_plain, _cost_by_torch],
    "2.5": [_field, _field_from_the_output, _field_as_a_sum],
}

WRONG: dict[str, dict[str, Callable[..., Any]]] = {
    "2.1": {
        "forgot-plus-one": lambda H, k, s, p, d: (H + 2 * p - d * (k - 1) - 1) // s,
        "ceiling": lambda H, k, s, p, d: -(-(H + 2 * p - d * (k - 1) - 1) // s) + 1,
        "padding-once": lambda H, k, s, p, d: (H + p - d * (k - 1) - 1) // s + 1,
        "no-padding": lambda H, k, s, p, d: (H - d * (k - 1) - 1) // s + 1,
        "no-floor": lambda H, k, s, p, d: (H + 2 * p - d * (k - 1) - 1) / s + 1,
        "plus-one-inside": lambda H, k, s, p, d: (H + 2 * p - d * (k - 1) - 1 + 1) // s,
        "dilation-ignored": lambda H, k, s, p, d: (H + 2 * p - k) // s + 1,
        "dilation-as-gap": lambda H, k, s, p, d: (H + 2 * p - (k + (k - 1) * d)) // s + 1,
        "span-too-long": lambda H, k, s, p, d: (H + 2 * p - d * k) // s + 1,
        "span-too-short": lambda H, k, s, p, d: (H + 2 * p - d * (k - 1)) // s + 1,
        "not-an-integer": lambda H, k, s, p, d: (H + 2 * p - d * (k - 1) - 1) // s + 1.0,
        "returned-none": lambda H, k, s, p, d: None,
    },
    "2.2": {
        "no-residual": lambda x, norm, qkv, proj, heads: proj(_heads(x, norm, qkv, proj, heads)),
        "no-projection": lambda x, norm, qkv, proj, heads: x + _heads(x, norm, qkv, proj, heads),
        "residual-of-norm": lambda x, norm, qkv, proj, heads: norm(x) + proj(_heads(x, norm, qkv, proj, heads)),
        "no-norm": lambda x, norm, qkv, proj, heads: x + proj(_heads(x, lambda y: y, qkv, proj, heads)),
        "missing-scale": lambda x, norm, qkv, proj, heads: x + proj(_heads(x, norm, qkv, proj, heads, root=1)),
        "scale-without-root": (
            lambda x, norm, qkv, proj, heads: x + proj(_heads(x, norm, qkv, proj, heads, root=32 / heads))
        ),
        "scale-multiplied": (
            lambda x, norm, qkv, proj, heads: (
                x + proj(_heads(x, norm, qkv, proj, heads, root=1 / math.sqrt(32 / heads)))
            )
        ),
        "scale-by-positions": (
            lambda x, norm, qkv, proj, heads: x + proj(_heads(x, norm, qkv, proj, heads, root=15**0.5))
        ),
        "softmax-over-queries": lambda x, norm, qkv, proj, heads: x + proj(_heads(x, norm, qkv, proj, heads, axis=1)),
        "softmax-over-heads": _softmax_over_heads,
        "no-softmax": _unnormalised_logits,
        "roles-swapped": _swapped,
        "reshape-without-transpose": _mixed_up,
        "scale-of-all-channels": (
            lambda x, norm, qkv, proj, heads: x + proj(_heads(x, norm, qkv, proj, heads, root=32**0.5))
        ),
        "heads-ignored": lambda x, norm, qkv, proj, heads: x + proj(_heads(x, norm, qkv, proj, 1)),
        "heads-interleaved": (
            lambda x, norm, qkv, proj, heads: x + proj(_heads(x, norm, qkv, proj, heads, interleaved=True))
        ),
        "qkv-per-head": _qkv_of_each_head,
        "split-without-transpose": _split_by_reshape,
        "wrong-shape": lambda x, norm, qkv, proj, heads: _fused(x, norm, qkv, proj, heads).flatten(2),
    },
    "2.3": {
        "wrong-side": lambda x, target: F.relu(target - x).square().mean(),
        "no-branch": lambda x, target: F.mse_loss(x, target),
        "constant-branch": lambda x, target: F.mse_loss(x + F.relu((target - x).mean()), target),
        "sum-not-mean": lambda x, target: F.relu(x - target).square().sum(),
        "mean-of-some": lambda x, target: (x - target)[x > target].square().mean(),
        "not-squared": lambda x, target: F.relu(x - target).mean(),
        "root": lambda x, target: F.relu(x - target).square().mean().sqrt(),
        "clamp-after-mean": lambda x, target: F.relu((x - target).mean()) ** 2,
        "always-zero": lambda x, target: 0.0,
    },
    "2.4": {
        "order-swapped": lambda *case: _cost_plain(*case)[::-1],
        "not-a-pair": lambda *case: _cost_plain(*case)[0],
        "forgot-bias": lambda *case: (_cost(*case).weights, _cost_plain(*case)[1]),
        "bias-per-input": lambda *case: (_cost(*case).weights + case[0], _cost_plain(*case)[1]),
        "one-bias-in-all": lambda *case: (_cost(*case).weights + 1, _cost_plain(*case)[1]),
        "bias-per-weight": lambda *case: (_cost(*case).weights + case[0] * case[1], _cost_plain(*case)[1]),
        "kernel-not-squared": lambda *case: (case[1] * (case[0] * case[2] + 1), _cost_plain(*case)[1]),
        "no-input-channels": lambda *case: (case[1] * (case[2] ** 2 + 1), _cost_plain(*case)[1]),
        "forgot-factor-two": lambda *case: (_cost_plain(*case)[0], _cost_plain(*case)[1] // 2),
        "input-size": lambda *case: (_cost_plain(*case)[0], 2 * _cost(*case).weights * _cost(*case).inputs),
        "size-by-stride": lambda c, o, k, s, p, H, W: (o * (c * k * k + 1), 2 * c * k * k * o * (H // s) * (W // s)),
        "height-for-both": lambda c, o, k, s, p, H, W: _cost_plain(c, o, k, s, p, H, H),
        "width-for-both": lambda c, o, k, s, p, H, W: _cost_plain(c, o, k, s, p, W, W),
        "bias-counted": lambda *case: (
            _cost_plain(*case)[0],
            _cost_plain(*case)[1] + _cost(*case).bias * _cost(*case).positions,
        ),
        "bias-as-weight": lambda *case: (_cost_plain(*case)[0], 2 * _cost_plain(*case)[0] * _cost(*case).positions),
        "no-positions": lambda *case: (_cost_plain(*case)[0], 2 * _cost(*case).weights),
        "exact-additions": lambda *case: (
            _cost_plain(*case)[0],
            _cost_plain(*case)[1] - case[1] * _cost(*case).positions,
        ),
    },
    "2.5": {
        "stride-ignored": lambda chain: 1 + sum(kernel - 1 for kernel, _ in chain),
        "stride-too-early": lambda chain: _field_with(chain, early=True),
        "starts-at-zero": lambda chain: _field_with(chain, side=0),
        "kernel-counted-whole": lambda chain: _field_with(chain, minus=0),
        "jump-not-multiplied": lambda chain: (
            chain[0][0] + sum((k - 1) * chain[i][1] for i, (k, _) in enumerate(chain[1:]))
        ),
        "jumps-added": _field_with_jumps_added,
        "own-stride": lambda chain: 1 + sum((kernel - 1) * stride for kernel, stride in chain),
        "wrong-end": lambda chain: _field(chain[::-1]),
    },
}


@pytest.mark.parametrize("rows", [False, True], ids=["channels first", "positions first"])
@pytest.mark.parametrize(
    "put_back",
    [
        lambda mixed: mixed,
        lambda mixed: mixed.transpose(2, 3),
        lambda mixed: mixed.reshape(len(mixed), 15, 32).transpose(1, 2),
        lambda mixed: mixed.transpose(1, 2).reshape(len(mixed), 15, 32).transpose(1, 2),
    ],
)
def test_splitting_into_heads_without_a_transpose_has_one_name(put_back, rows) -> None:
    def answer(*arguments):
        return _split_by_reshape(*arguments, put_back=put_back, rows=rows)

    assert unet.attention(answer).mistake in {"split-without-transpose", "reshape-without-transpose"}


@pytest.mark.parametrize("exercise", RIGHT)
def test_open(exercise: str) -> None:
    def stub(*arguments: object) -> None:
        raise NotImplementedError

    assert checks.REGISTRY[exercise](stub).status == "open"
    assert checks.REGISTRY[exercise](lambda *arguments: ...).status == "open"


def test_every_check_of_the_lesson_is_registered() -> None:
    assert {number for number in checks.REGISTRY if number.startswith("2.")} == set(RIGHT) == set(WRONG)
    assert len(unet.__all__) == len(RIGHT)
