"""Checks of lesson 2: sizes, attention, the cost of the last ReLU, the price of a convolution, receptive fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._core import Mistake, NotAttempted, check, expect_close, expect_scalar, expect_tensor

__all__ = ["attention", "conv_cost", "conv_size", "receptive_field", "relu_floor"]


def _numbers(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


@check("2.1", "The size of any convolution")
def conv_size(function: Callable[[int, int, int, int, int], Any]) -> str:
    """The learner's ``(size, kernel, stride, padding, dilation)`` → size of the output."""
    plain = [(H, k, s, p, 1) for H in (28, 29, 64, 65) for k, s, p in ((3, 2, 1), (4, 2, 1), (5, 2, 2), (7, 3, 0))]
    dilated = [(H, k, s, p, d) for H in (31, 32) for k, s, p, d in ((3, 1, 2, 2), (3, 2, 2, 2), (4, 3, 1, 3))]
    _check_sizes(function, plain, "ordinary kernels (dilation 1)")
    _check_sizes(function, dilated, "kernels with gaps (dilation 2 and 3)")
    if any(isinstance(function(*case), float) for case in plain):
        raise Mistake("not-an-integer", "The numbers are right, but a size should be an integer: use // for the floor.")
    return (
        "right, for odd and even sizes and with gaps in the kernel. 64 → 32 → 16 → 8 is the case k = 3, s = 2, p = 1."
    )


def _check_sizes(function: Callable[..., Any], cases: Sequence[tuple[int, ...]], what: str) -> None:
    def table(rule: Callable[..., float]) -> Tensor:
        return _numbers([rule(*case) for case in cases])

    def torch_size(H: int, k: int, s: int, p: int, d: int) -> int:
        return F.conv1d(torch.zeros(1, 1, H), torch.zeros(1, 1, k), stride=s, padding=p, dilation=d).shape[-1]

    mistakes = {
        "forgot-plus-one": (
            table(lambda H, k, s, p, d: (H + 2 * p - d * (k - 1) - 1) // s),
            "Every size is one too small. Starts count from zero: there is one more than the last i.",
        ),
        "ceiling": (
            table(lambda H, k, s, p, d: math.ceil((H + 2 * p - d * (k - 1) - 1) / s) + 1),
            "You round up. A kernel that does not fit in completely does not count: round down.",
        ),
        "padding-once": (
            table(lambda H, k, s, p, d: (H + p - d * (k - 1) - 1) // s + 1),
            "The padding is there on both sides: the row has H + 2p cells.",
        ),
        "no-padding": (
            table(lambda H, k, s, p, d: (H - d * (k - 1) - 1) // s + 1),
            "The padding is missing: the row has H + 2p cells.",
        ),
        "no-floor": (
            table(lambda H, k, s, p, d: (H + 2 * p - d * (k - 1) - 1) / s + 1),
            "Some of your sizes are fractions. A kernel that fits in halfway does not count: take the floor.",
        ),
        "plus-one-inside": (
            table(lambda H, k, s, p, d: (H + 2 * p - d * (k - 1)) // s),
            "The + 1 stands inside the fraction. It counts outputs, not cells: first the floor, then + 1.",
        ),
        "dilation-ignored": (
            table(lambda H, k, s, p, d: (H + 2 * p - k) // s + 1),
            "Right without dilation, but dilation does not change your result. How many cells does the kernel span?",
        ),
        "dilation-as-gap": (
            table(lambda H, k, s, p, d: (H + 2 * p - k - d * (k - 1)) // s + 1),
            "You leave d empty cells between neighbours. Dilation d is the distance from one cell to the next: d = 1 "
            "leaves no gap, and the span is d(k − 1) + 1.",
        ),
        "span-too-long": (
            table(lambda H, k, s, p, d: (H + 2 * p - d * k) // s + 1),
            "A kernel of k cells has k − 1 gaps between them, not k: its span is d(k − 1) + 1.",
        ),
        "span-too-short": (
            table(lambda H, k, s, p, d: (H + 2 * p - d * (k - 1)) // s + 1),
            "The span d(k − 1) leaves out one cell: with d = 1 it should be k.",
        ),
    }
    values = _numbers([expect_scalar(function(*case)) for case in cases])
    expect_close(values, table(torch_size), mistakes=mistakes, name=f"the list of your sizes for {what}", rtol=0)


@check("2.2", "Attention with several heads")
def attention(function: Callable[[Tensor, nn.Module, nn.Module, nn.Module, int], Any]) -> str:
    """The learner's ``(x, norm, qkv, proj, heads)`` → output of the attention block."""
    for heads in (1, 4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(20 + heads)
            norm, qkv, proj = nn.GroupNorm(8, 32), nn.Conv2d(32, 96, 1), nn.Conv2d(32, 32, 1)
            nn.init.normal_(norm.weight)
            nn.init.normal_(qkv.weight, std=0.5)
            x = 2 * torch.randn(2, 32, 3, 5) + 0.5
        layers = [layer.double() for layer in (norm, qkv, proj)]
        _check_heads(function, x.double(), layers, heads)
    return "right: with one head it is the helper's block, and with more each head looks for something of its own."


def _check_heads(function: Callable[..., Any], x: Tensor, layers: list[nn.Module], heads: int) -> None:
    norm, qkv, proj = layers
    B, C, N = len(x), x.shape[1], x[0, 0].numel()
    with torch.no_grad():
        right = _Attention(x, norm, qkv, proj, heads)
        raw = proj(right.mixed)
        wrong = {
            "no-residual": (raw, "The input is not added at the end: the block returns x + proj(…)."),
            "no-projection": (x + right.mixed, "The last 1×1 convolution, proj, is missing."),
            "residual-of-norm": (norm(x) + raw, "You add the normalised input. The skip carries x as it came in."),
            "no-norm": (
                _Attention(x, nn.Identity(), qkv, proj, heads).out,
                "qkv should see norm(x): the normalisation is missing.",
            ),
            "missing-scale": (
                _Attention(x, norm, qkv, proj, heads, root=1).out,
                "The logits are not divided by the root of the width.",
            ),
            "scale-without-root": (
                _Attention(x, norm, qkv, proj, heads, root=32 // heads).out,
                "You divide by the width itself. Its root brings the variance to 1.",
            ),
            "scale-multiplied": (
                _Attention(x, norm, qkv, proj, heads, root=(32 // heads) ** -0.5).out,
                "You multiply the logits by the root of the width. Divide by it: their variance is too large, not too "
                "small.",
            ),
            "scale-by-positions": (
                _Attention(x, norm, qkv, proj, heads, root=15**0.5).out,
                "You divide by the root of the number of positions. The sum in q·k runs over channels.",
            ),
            "softmax-over-queries": (
                _Attention(x, norm, qkv, proj, heads, dim=2).out,
                "The softmax runs over the wrong axis: for each query, the weights over the keys must sum to 1.",
            ),
            "softmax-over-heads": (
                _Attention(x, norm, qkv, proj, heads, dim=1).out,
                "The softmax runs over the heads: with the shape (B, heads, N, N) that is axis 1. For each query, the "
                "weights over the keys, the last axis, must sum to 1.",
            ),
            "no-softmax": (_Attention(x, norm, qkv, proj, heads, dim=None).out, "The softmax is missing."),
            "roles-swapped": (
                _Attention(x, norm, qkv, proj, heads, swap=True).out,
                "Queries and keys have changed places: rows belong to queries, QKᵀ and not KQᵀ.",
            ),
            "reshape-without-transpose": (
                x + proj(right.mixed.flatten(2).transpose(1, 2).reshape(x.shape)),
                "The result is reshaped to a picture while the channels are still last. The shape fits, the content "
                "does not: transpose positions and channels first.",
            ),
            "scale-of-all-channels": (
                _Attention(x, norm, qkv, proj, heads, root=32**0.5).out,
                "With several heads each inner product runs over C/heads channels, and so does the root.",
            ),
            "heads-ignored": (
                _Attention(x, norm, qkv, proj, 1).out,
                "Right with one head, but the number of heads does not change your result.",
            ),
            "heads-interleaved": (
                _Attention(x, norm, qkv, proj, heads, interleaved=True).out,
                "Your heads take every heads-th channel. They should be consecutive blocks of C/heads channels.",
            ),
            "qkv-per-head": (
                x + proj(_attend(*qkv(norm(x)).reshape(B, heads, 3, C // heads, N).transpose(3, 4).unbind(2), x.shape)),
                "You read the channels of qkv as q, k and v of the first head, then of the second. They are all of q, "
                "then all of k, then all of v: split into three before you split into heads.",
            ),
        }
        value = expect_tensor(function(x, norm, qkv, proj, heads))
        for mixed in _without_transpose(qkv(norm(x)), heads):
            if value.shape == x.shape and torch.allclose(value.double(), x + proj(mixed.reshape(x.shape))):
                raise Mistake(
                    "split-without-transpose",
                    "q, k and v are reshaped to (B, heads, N, C/heads) as they are. The shape fits, but then numbers "
                    "of other positions and channels share a row: reshape to (B, heads, C/heads, N), and transpose.",
                )
        name = f"the output with heads={heads}"
        expect_close(value, right.out, mistakes=wrong, name=name, rtol=1e-5, atol=1e-6)


def _attend(q: Tensor, k: Tensor, v: Tensor, shape: Sequence[int]) -> Tensor:
    """Attention of q, k, v, each (B, heads, N, width), put back into a picture of the given shape."""
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(shape)


def _without_transpose(channels: Tensor, heads: int) -> list[Tensor]:
    """What comes out, up to a reshape, when q, k, v are split into heads by a reshape alone, by ways to undo it."""
    parts = channels.flatten(2).chunk(3, dim=1)  # three times (B, C, N)
    B, C, N = parts[0].shape
    straight = F.scaled_dot_product_attention(*(part.reshape(B, heads, N, C // heads) for part in parts))
    found = [straight, straight.transpose(2, 3)]
    if heads > 1:  # from (B, N, C), one head is right
        rows = [part.transpose(1, 2).reshape(B, heads, N, C // heads) for part in parts]
        mixed = F.scaled_dot_product_attention(*rows)
        found += [mixed.reshape(B, N, C).transpose(1, 2), mixed.transpose(2, 3)]
        found += [mixed, mixed.transpose(1, 2).reshape(B, N, C).transpose(1, 2)]
    return found


class _Attention:
    """The block's output ``out`` and the mixed values before the projection, with switches for what can go wrong."""

    def __init__(
        self,
        x: Tensor,
        norm: nn.Module,
        qkv: nn.Module,
        proj: nn.Module,
        heads: int,
        *,
        root: float | None = None,
        dim: int | None = 3,
        swap: bool = False,
        interleaved: bool = False,
    ) -> None:
        B, C, H, W = x.shape
        width = C // heads
        parts = qkv(norm(x)).flatten(2).chunk(3, dim=1)
        split = [
            part.reshape(B, width, heads, H * W).transpose(1, 2) if interleaved else part.reshape(B, heads, width, -1)
            for part in parts
        ]
        q, k, v = (part.transpose(2, 3) for part in split)
        if swap:
            q, k = k, q
        logits = q @ k.transpose(2, 3) / (width**0.5 if root is None else root)
        weights = logits if dim is None else logits.softmax(dim)
        mixed = (weights @ v).transpose(2, 3)
        self.mixed = (mixed.transpose(1, 2) if interleaved else mixed).reshape(x.shape)
        self.out = x + proj(self.mixed)


@check("2.3", "What the last ReLU costs")
def relu_floor(function: Callable[[Tensor, Tensor], Any]) -> str:
    """The learner's ``(x, target)`` → smallest mean squared error of x + r over r ≥ 0."""
    generator = torch.Generator().manual_seed(23)
    shape = (4, 3, 4, 5, 5)  # four tasks, with the target above x on average and below
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    shifts = torch.tensor([0.4, 0.0, -0.7, 0.9], dtype=torch.float64)
    target = torch.randn(shape, generator=generator, dtype=torch.float64) + shifts.reshape(-1, 1, 1, 1, 1)
    gap = (x - target).flatten(1)
    below = gap.clamp(min=0)
    constant = (-gap.mean(dim=1, keepdim=True)).clamp(min=0)
    mistakes = {
        "wrong-side": (
            (-gap).clamp(min=0).square().mean(dim=1),
            "You charge for the entries where the target is above x. There the branch can reach it: "
            "the error stays where the target is below.",
        ),
        "no-branch": (
            gap.square().mean(dim=1),
            "This is the loss of a branch that is zero everywhere. Where the target is above x, a better r exists.",
        ),
        "constant-branch": (
            (gap + constant).square().mean(dim=1),
            "This is the loss of the best *constant* r. The branch can be any function: each entry has its own r.",
        ),
        "sum-not-mean": (below.square().sum(dim=1), "You sum over the entries; the loss is their mean."),
        "mean-of-some": (
            below.square().sum(dim=1) / (gap > 0).sum(dim=1),
            "You average over the entries where the target is below x only. The others count too, with error 0.",
        ),
        "not-squared": (below.mean(dim=1), "The errors are right, but not squared yet."),
        "root": (below.square().mean(dim=1).sqrt(), "This is the root of the loss: leave out the square root."),
        "always-zero": (
            torch.zeros(len(gap)),
            "That would need a negative r somewhere: look at entries where the target is below x.",
        ),
        "clamp-after-mean": (
            gap.mean(dim=1).clamp(min=0).square(),
            "Each entry has an r of its own: clamp first, entry by entry, then square and average.",
        ),
    }
    values = _numbers([expect_scalar(function(*task)) for task in zip(x.clone(), target.clone(), strict=True)])
    expect_close(values, below.square().mean(dim=1), mistakes=mistakes, name="the list of your losses for four tasks")
    return "right: where the target lies below x, the best branch is zero, and the distance stays."


@check("2.4", "The price of a convolution")
def conv_cost(function: Callable[..., Any]) -> str:
    """The learner's ``(in_channels, out_channels, kernel, stride, padding, height, width)`` → (parameters, FLOPs)."""
    cases = [(3, 64, 3, 1, 1, 32, 32), (64, 128, 3, 2, 1, 32, 24), (256, 768, 1, 1, 0, 8, 8), (16, 24, 5, 3, 0, 30, 17)]
    answers = []
    for case in cases:
        answer = function(*case)
        if answer is None or not hasattr(answer, "__len__") or len(answer) != 2:
            raise NotAttempted if answer is ... else Mistake("not-a-pair", "Return two numbers: parameters, FLOPs.")
        answers.append([expect_scalar(number) for number in answer])
    parameters, flops = _numbers([a for a, _ in answers]), _numbers([b for _, b in answers])

    def table(rule: Callable[[int, int, int, int, int], float]) -> Tensor:
        rows = []
        for c, o, k, s, p, H, W in cases:
            rows.append(rule(c, o, k, ((H + 2 * p - k) // s + 1) * ((W + 2 * p - k) // s + 1), H * W))
        return _numbers(rows)

    def flops_over(positions: Callable[[int, int, int, int, int], int]) -> Tensor:
        return _numbers([2 * c * k * k * o * positions(k, s, p, H, W) for c, o, k, s, p, H, W in cases])

    one_side = "You take one side of the output for both. A picture need not be a square."

    right_parameters = table(lambda c, o, k, n, m: o * (c * k * k + 1))
    right_flops = table(lambda c, o, k, n, m: 2 * c * k * k * o * n)
    if torch.equal(parameters, right_flops):
        raise Mistake("order-swapped", "The two numbers have changed places: first the parameters, then the FLOPs.")
    expect_close(
        parameters,
        right_parameters,
        name="the list of parameters",
        rtol=1e-9,
        mistakes={
            "forgot-bias": (
                table(lambda c, o, k, n, m: o * c * k * k),
                "The weights are right, but each output channel has a bias, too.",
            ),
            "bias-per-input": (
                table(lambda c, o, k, n, m: o * c * k * k + c),
                "There is one bias per output channel, not per input channel.",
            ),
            "one-bias-in-all": (
                table(lambda c, o, k, n, m: o * c * k * k + 1),
                "You count one bias for the whole layer. There is one for each output channel.",
            ),
            "bias-per-weight": (
                table(lambda c, o, k, n, m: o * c * (k * k + 1)),
                "You count a bias for every pair of channels. There is one per output channel.",
            ),
            "kernel-not-squared": (
                table(lambda c, o, k, n, m: o * (c * k + 1)),
                "The kernel has two sides: k² weights for each pair of channels.",
            ),
            "no-input-channels": (
                table(lambda c, o, k, n, m: o * (k * k + 1)),
                "Each output channel has a k×k kernel for every input channel.",
            ),
        },
    )
    expect_close(
        flops,
        right_flops,
        name="the list of FLOPs",
        rtol=1e-9,
        mistakes={
            "forgot-factor-two": (right_flops / 2, "These are multiply-adds; each of them is two FLOPs."),
            "input-size": (
                table(lambda c, o, k, n, m: 2 * c * k * k * o * m),
                "You count input positions. A weight is used once per output position, and the stride thins those out.",
            ),
            "size-by-stride": (
                flops_over(lambda k, s, p, H, W: (H // s) * (W // s)),
                "You divide the sides by the stride. That is the size of the output for some kernels and paddings "
                "only: Q4 has the formula.",
            ),
            "height-for-both": (flops_over(lambda k, s, p, H, W: ((H + 2 * p - k) // s + 1) ** 2), one_side),
            "width-for-both": (flops_over(lambda k, s, p, H, W: ((W + 2 * p - k) // s + 1) ** 2), one_side),
            "bias-counted": (
                table(lambda c, o, k, n, m: (2 * c * k * k + 1) * o * n),
                "You have counted the addition of the bias as well. That is honest, but by convention it is left out.",
            ),
            "bias-as-weight": (
                table(lambda c, o, k, n, m: 2 * (c * k * k + 1) * o * n),
                "Two FLOPs for each parameter: the bias is not multiplied with anything, and its addition is left out.",
            ),
            "no-positions": (
                table(lambda c, o, k, n, m: 2 * c * k * k * o),
                "This is the price of one position. The kernel is applied at every output position.",
            ),
            "exact-additions": (
                table(lambda c, o, k, n, m: (2 * c * k * k - 1) * o * n),
                "n products need n − 1 additions, true enough; by convention each product counts as two FLOPs.",
            ),
        },
    )
    return "right, both. A weight costs two FLOPs for every position of the output."


@check("2.5", "How far it sees")
def receptive_field(function: Callable[[list[tuple[int, int]]], Any]) -> str:
    """The learner's ``([(kernel, stride), …])`` → side of the receptive field."""
    mid1 = [(3, 1), (3, 1), (3, 1), (3, 2), (3, 1), (3, 1), (3, 2), (3, 1), (3, 1)]
    chains = [[(3, 1)], [(3, 1)] * 4, mid1, [(7, 2), (3, 2), (4, 1), (5, 3)], [(2, 2), (2, 2), (3, 1)]]

    def table(rule: Callable[[list[tuple[int, int]]], float]) -> Tensor:
        return _numbers([rule(chain) for chain in chains])

    def stepped(chain: list[tuple[int, int]], side: int = 1, minus: int = 1, early: bool = False) -> int:
        jump = 1
        for kernel, stride in chain:
            if early:
                jump *= stride
            side += (kernel - minus) * jump
            if not early:
                jump *= stride
        return side

    mistakes = {
        "stride-ignored": (
            table(lambda chain: 1 + sum(k - 1 for k, _ in chain)),
            "Right as long as all strides are 1. After a stride, one step of the kernel is several input pixels: "
            "multiply by the jump.",
        ),
        "stride-too-early": (
            table(lambda chain: stepped(chain, early=True)),
            "The jump grows before the layer's own kernel is counted. A stride spreads only the layers after it.",
        ),
        "starts-at-zero": (
            table(lambda chain: stepped(chain, side=0)),
            "Every field is one too small: without any layer a pixel sees itself, so the side starts at 1.",
        ),
        "kernel-counted-whole": (
            table(lambda chain: stepped(chain, minus=0)),
            "A kernel of k cells reaches k − 1 steps from its first to its last cell.",
        ),
        "jump-not-multiplied": (
            table(lambda chain: 1 + sum((k - 1) * (chain[i - 1][1] if i else 1) for i, (k, _) in enumerate(chain))),
            "You multiply with the stride of the layer before only. The jump is the product of all strides before.",
        ),
        "jumps-added": (
            table(
                lambda chain: (
                    1 + sum((k - 1) * (1 + sum(s - 1 for _, s in chain[:i])) for i, (k, _) in enumerate(chain))
                )
            ),
            "Your jump grows by stride − 1 a layer. Strides multiply: after two strides of 2 the jump is 4, not 3.",
        ),
        "own-stride": (
            table(lambda chain: 1 + sum((k - 1) * s for k, s in chain)),
            "You multiply with the layer's own stride. What counts is the product of the strides before it.",
        ),
        "wrong-end": (
            table(lambda chain: stepped(chain[::-1])),
            "You begin at the output. With this recursion, start at the input (from the output it is r ← s·r + k − s).",
        ),
    }
    values = _numbers([expect_scalar(function(list(chain))) for chain in chains])
    expect_close(values, table(stepped), mistakes=mistakes, name="the list of sides", rtol=0)
    return "right: 37 pixels for mid1, as the gradients say. At full resolution it would take 18 layers of 3×3."
