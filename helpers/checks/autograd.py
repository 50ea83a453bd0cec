"""Checks of lesson 6: predictions, finite differences, a VJP by hand, accumulation, input gradients, an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ._autograd_engine import STAGES
from ._core import Mistake, NotAttempted, check, expect_close, expect_scalar, expect_tensor

__all__ = ["accumulation", "central_difference", "engine", "input_gradient", "predictions", "vjp"]


@check("6.1", "Five programs, five numbers")
def predictions(answers: Mapping[str, float]) -> str:
    """Compare predicted gradients of five small programs with what autograd gives."""
    beliefs = {
        "a": (
            3.0,
            {
                "detach-ignored": (6.0, "the second factor is detached, so it counts as a constant."),
                "detach-cuts-all": (0.0, "only one of the two factors is detached; the other path is open."),
            },
        ),
        "b": (12.0, {"not-accumulated": (6.0, "the second `backward()` adds to what is in `.grad` already.")}),
        "c": (2.0, {"mean-forgotten": (8.0, "this is the sum's gradient; the mean divides by the number of entries.")}),
        "d": (
            22.0,
            {
                "weights-ignored": (17.0, "that is the gradient of the plain sum; `gradient=` weights the rows."),
                "one-output-only": (12.0, "the second output depends on x too, and its weight is 2."),
            },
        ),
        "e": (
            2.0,
            {
                "no-grad-ignored": (4.0, "h was made under `no_grad`, so it counts as a constant in y = h·w."),
                "no-grad-cuts-all": (0.0, "only h was made under `no_grad`; the product y = h·w is recorded."),
            },
        ),
    }
    if not isinstance(answers, Mapping) or set(answers) != set(beliefs):
        raise Mistake("wrong-type", "give a dictionary with the keys a, b, c, d and e.")
    filled = [key for key in beliefs if answers[key] is not ...]
    if not filled:
        raise NotAttempted
    for key in filled:
        expected, mistakes = beliefs[key]
        if answers[key] is None:
            why = "it is tracked, and a recorded path leads from the result to it. Which number arrives?"
            raise Mistake("none-for-a-number", f"({key}) Not `None`: {why}")
        value = expect_scalar(answers[key], f"answer {key}")
        named = {name: (wrong, f"({key}) Not {wrong:g}: {why}") for name, (wrong, why) in mistakes.items()}
        expect_close(value, expected, mistakes=named, name=f"answer {key}")
    if len(filled) < len(beliefs):
        missing = ", ".join(key for key in beliefs if key not in filled)
        raise Mistake("unfinished", f"{len(filled)} of {len(beliefs)} are right; fill in the rest: {missing}.")
    return "all five are right. You can read a program the way autograd does."


def _function(x: Tensor) -> Tensor:
    weights = torch.arange(1, x.numel() + 1, dtype=x.dtype).reshape(x.shape)
    return (weights * torch.exp(0.5 * x)).sum() + x.flatten()[0] ** 3 * x.flatten()[-1]


def _differences(x: Tensor, ahead: float, behind: float, divisor: float) -> Tensor:
    """(f(x + ahead·e_i) − f(x + behind·e_i)) / divisor for every entry i."""
    units = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    quotients = [(_function(x + ahead * u) - _function(x + behind * u)) / divisor for u in units]
    return torch.stack(quotients).reshape(x.shape)


@check("6.2", "Central differences")
def central_difference(gradient: Callable[[Callable[[Tensor], Tensor], Tensor, float], Tensor]) -> str:
    """``gradient(f, x, h)`` should return (f(x + h·e_i) − f(x − h·e_i)) / 2h for every entry of ``x``."""
    steps = (0.1, 0.05)  # large on purpose: the schemes differ visibly
    for shape, transposed, seed in (((3,), False, 0), ((2, 3), False, 1), ((2, 3), True, 2)):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(shape[::-1] if transposed else shape, generator=generator, dtype=torch.float64)
        x = x.T if transposed else x
        (exact,) = torch.autograd.grad(_function(leaf := x.clone().requires_grad_()), leaf)
        errors = []
        for h in steps:
            got = _called_with_a_layout(gradient, x, h, transposed)
            right = _differences(x, h, -h, 2 * h)
            try:
                expect_close(got, right, mistakes=_schemes(x, h, exact), rtol=1e-7, atol=1e-9)
            except Mistake as mistake:
                if mistake.name == "wrong-value" and _is_rounded(got, right):
                    advice = "right to float32 only: x comes in float64, and a difference quotient needs those digits."
                    raise Mistake("float32", advice) from None
                raise
            errors.append((torch.as_tensor(got) - exact).abs().max().item())
    return f"right, entry by entry, and halving h divided the error by {errors[0] / errors[1]:.1f}: it falls with h²."


def _is_rounded(got: Any, right: Tensor) -> bool:
    """Whether a wrong result is in float32 and right as far as that reaches."""
    got = torch.as_tensor(got)
    return got.dtype == torch.float32 and torch.allclose(got.double(), right, rtol=1e-4, atol=1e-4)


def _called_with_a_layout(gradient: Callable[..., Any], x: Tensor, h: float, transposed: bool) -> Any:
    """What the learner's function gives for a copy of ``x``; one number, or one per row, is spread over the entries."""
    given = x.clone()
    try:
        got = gradient(_function, given, h)
    except NotImplementedError:
        raise
    except RuntimeError as error:
        if not transposed:
            raise
        text = f"right, but not for a transposed x, whose entries do not lie in order: {str(error).splitlines()[0]} "
        advice = text + "Make the step and the result with torch.zeros(x.shape, dtype=x.dtype)."
        raise Mistake("layout", advice) from None
    if not torch.equal(given, x):
        rounding = (
            " (x + h − 2h + h is x up to rounding only: keep the old number.)" if torch.allclose(given, x) else ""
        )
        advice = "your function leaves x changed: move one entry of a copy, or put it back." + rounding
        raise Mistake("input-changed", advice)
    if isinstance(got, Tensor) and got.numel() == 1:
        return got.reshape(()).expand(x.shape)
    if isinstance(got, Tensor) and x.dim() > 1 and got.shape == x.shape[:1]:
        return got[:, None].expand(x.shape)
    return got


def _schemes(x: Tensor, h: float, exact: Tensor) -> dict[str, tuple[Tensor, str]]:
    """What the typical mistakes give."""
    together = (_function(x + h) - _function(x - h)) / (2 * h)
    rows = []
    for i in range(len(x)):
        step = torch.zeros(x.shape, dtype=x.dtype)
        step[i] = h
        rows.append(((_function(x + step) - _function(x - step)) / (2 * h)).expand(x.shape[1:]))
    return {
        "forward-difference": (_differences(x, h, 0, h), "this is the forward difference; step to both sides of x."),
        "backward-difference": (_differences(x, 0, -h, h), "this is the backward difference; step to both sides of x."),
        "half-missing": (_differences(x, h, -h, h), "the two points are 2h apart, so divide by 2h."),
        "half-step": (
            _differences(x, h / 2, -h / 2, h),
            "here the points should lie h, not h/2, on either side.",
        ),
        "order-swapped": (_differences(x, -h, h, 2 * h), "the sign is turned round: f(x + h) comes first."),
        "all-at-once": (together.expand(x.shape), "you moved all entries together; move one at a time."),
        "row-moved": (
            torch.stack(rows),
            "you moved a whole row of x at a time: len(x) counts rows. Go over all x.numel() entries.",
        ),
        "derivative-instead": (
            exact,
            "this is the exact gradient; the quotient with the given h differs. Either the derivative was computed, "
            "or your code ignores h and takes a small step of its own.",
        ),
        "h-ignored": (_differences(x, 0.1, -0.1, 0.2), "this is right for h = 0.1 only: use the h that comes in."),
        "copy-written": (
            torch.zeros(x.shape),
            "all zeros: the step, or the result, was written into a copy. reshape(-1) and flatten() copy when the "
            "entries do not lie in order, as in a transposed x.",
        ),
    }


@check("6.3", "A vector–Jacobian product by hand")
def vjp(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """``product(matrix, x, v)`` should return vᵀJ for y = tanh(matrix · x), without building J."""
    for rows, columns, seed in ((3, 3, 0), (2, 4, 1), (5, 2, 2)):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        x = torch.randn(columns, generator=generator, dtype=torch.float64)
        v = torch.randn(rows, generator=generator, dtype=torch.float64)
        y = torch.tanh(matrix @ x)
        slope = 1 - y**2
        by_hand = "autograd is switched off here: write the backward pass yourself, node by node."
        mistakes: dict[str, tuple[Tensor, str]] = {
            "autograd-used": (torch.zeros(columns), f"all zeros: nothing arrives at x ({by_hand})"),
            "slope-forgotten": (matrix.T @ v, "the factor of tanh is missing: its slope is 1 − y², at y = tanh(Ax)."),
            "slope-not-squared": (matrix.T @ ((1 - y) * v), "the slope of tanh is 1 − y², with a square."),
            "slope-at-wrong-point": (
                matrix.T @ ((1 - (matrix @ x) ** 2) * v),
                "the slope is 1 − y², y after the tanh.",
            ),
            "value-for-slope": (matrix.T @ (y * v), "you multiplied by tanh itself, not by its slope 1 − y²."),
            "slope-bracket": (matrix.T @ ((1 - y) ** 2 * v), "(1 − y)² is not 1 − y²: square y, not the difference."),
            "slope-sign": (matrix.T @ (-slope * v), "the sign is turned round: the slope of tanh is 1 − y², positive."),
            "tanh-twice": (
                matrix.T @ ((1 - torch.tanh(y) ** 2) * v),
                "the slope is 1 − y² with y = tanh(Ax) itself: you took the tanh once more.",
            ),
            "v-ignored": (matrix.T @ slope, "this is the answer for v = (1, …, 1): v has to enter."),
        }
        if rows == columns:
            mistakes["jvp"] = (
                slope * (matrix @ v),
                "this is the product J v; a gradient flows the other way, vᵀJ: first the slope, then the transpose.",
            )
            mistakes["not-transposed"] = (
                matrix @ (slope * v),
                "the matrix wants transposing: y_i depends on x_j through A_ij, so x_j collects over i.",
            )
        try:
            got, built, watched = _watched_product(product, matrix, x, v, slope[:, None] * matrix)
        except NotImplementedError:
            raise
        except RuntimeError as error:
            if any(words in str(error) for words in ("require grad", "nference", "requires_grad")):
                raise Mistake("autograd-used", by_hand) from None
            raise Mistake(
                "shapes",
                f"with a matrix of shape ({rows}, {columns}) your code raised: {str(error).splitlines()[0]}. "
                f"v has {rows} entries and the result {columns}.",
            ) from None
        expect_close(got, matrix.T @ (slope * v), mistakes=mistakes, rtol=1e-7, atol=1e-9)
        if built:
            advice = (
                f"the numbers are right, but the whole Jacobian, ({rows}, {columns}), was built on the way. Bring v "
                "in first: (1 − y²) ∘ v has only as many entries as y, and Aᵀ takes it the rest of the way."
            )
            raise Mistake("jacobian-built", advice)
    if not watched:
        return (
            "right for every shape, without autograd. (What another library than torch made on the way is not watched: "
            "there it is up to you that nothing of the Jacobian's shape was built.)"
        )
    return "right for every shape, without autograd: an elementwise product, a product with Aᵀ, and no Jacobian."


class _Results(TorchDispatchMode):
    """Keeps what torch computes while it is on, and whether autograd's own backward formulas are at work."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self.differentiated = False

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        self.differentiated |= "_backward" in str(function)
        if isinstance(result, Tensor):
            self.tensors.append(result)
        return result


def _watched_product(
    product: Callable[..., Any], matrix: Tensor, x: Tensor, v: Tensor, jacobian: Tensor
) -> tuple[Any, bool, bool]:
    """The learner's result, computed where autograd is off, and whether torch made the Jacobian, and the result."""
    with torch.inference_mode():
        given = [t.clone() for t in (matrix, x, v)]  # made here, so that nobody can track them again
        with _Results() as results:
            got = product(*given)
        if results.differentiated:  # torch.func works in inference mode too
            raise Mistake("autograd-used", "right or not, torch went backwards for you: write the pass yourself.")
        made = [t for t in results.tensors if t.shape in (jacobian.shape, jacobian.T.shape)]
        candidates = [t.double() for t in made] + [t.T.double() for t in made]
        built = any(t.shape == jacobian.shape and torch.allclose(t, jacobian) for t in candidates)
        return got, built, any(t is got for t in results.tensors)


def _linear(generator: torch.Generator) -> nn.Linear:
    """A small float64 model whose weights come from the generator."""
    model = nn.utils.skip_init(nn.Linear, 3, 1, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def _mean_square_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the mean squared error over the rows, all parameters in one vector."""
    gradients = torch.autograd.grad(((model(x) - y) ** 2).mean(), list(model.parameters()))
    return torch.cat([g.flatten() for g in gradients])


@check("6.4", "Micro-batches of unequal size")
def accumulation(accumulate: Callable[[nn.Module, list[tuple[Tensor, Tensor]]], Any]) -> str:
    """``accumulate(model, micro_batches)`` should leave in ``.grad`` the gradient of the mean over all examples."""
    for sizes, stale in (((5, 2, 1), False), ((1, 6), True)):
        generator = torch.Generator().manual_seed(len(sizes))
        model = _linear(generator)
        before = [p.detach().clone() for p in model.parameters()]
        batches = [torch.randn(n, 4, generator=generator, dtype=torch.float64).split((3, 1), dim=1) for n in sizes]
        parts = torch.stack([_mean_square_gradient(model, x, y) for x, y in batches])
        rows, total = torch.tensor(sizes, dtype=torch.float64), sum(sizes)
        weights = rows / total
        crossed = torch.stack([_mean_square_gradient(nn.Sequential(model, nn.Flatten(0)), x, y) for x, y in batches])
        right = weights @ parts
        if stale:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
        passes = _watched_passes(accumulate, model, [(x.clone(), y.clone()) for x, y in batches])
        if any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)):
            raise Mistake("model-changed", "the weights have moved: only gradients are asked for, no optimizer step.")
        if any(p.grad is None for p in model.parameters()):
            raise Mistake("no-gradient", "some parameter has no .grad afterwards: is backward() called on every part?")
        got = torch.cat([p.grad.flatten() for p in model.parameters()])
        last = parts[-1]
        if torch.allclose(got, (got @ last) / (last @ last) * last):
            raise Mistake(
                "zeroed-inside", "only the last part has survived: clear the gradients before the loop, not in it."
            )
        mistakes = {
            "stale-gradient": (
                right + 1,
                "what .grad held before is still in it: clear it once, before the first part.",
            ),
            "not-scaled": (parts.sum(0), "this is the sum of the parts' mean losses: each part needs its weight."),
            "equal-weights": (parts.mean(0), "dividing by the number of parts is right for equal sizes only."),
            "sum-of-squares": (
                right * total,
                "this is the gradient of the sum over examples: divide by their number.",
            ),
            "rows-crossed": (
                weights @ crossed,
                "shapes (rows, 1) and (rows,) were subtracted, which compares every row with every other, as in Q8.",
            ),
            "rows-forgotten": (
                parts.sum(0) / total,
                "each part's mean is divided by the number of all rows: multiply by the part's own number of rows.",
            ),
            "divided-twice": ((1 / rows) @ parts, "mse_loss has divided by the part's rows already: weight by n/N."),
            "weight-upside-down": ((1 / weights) @ parts, "the weight is n/N, the part's share of the rows, not N/n."),
            "divided-by-parts": (
                right * total / len(sizes),
                "the squares of all rows are divided by the number of parts: divide by the number of rows.",
            ),
            "scaled-twice": (
                right / len(sizes),
                "weighted by n/N *and* divided by the number of parts: the weights add up to 1 already.",
            ),
        }
        expect_close(got, right, mistakes=mistakes, name="the accumulated gradient", rtol=1e-5, atol=1e-8)
        _expect_one_part_at_a_time(*passes, len(sizes))
    return "right: parts of any size add up to the gradient of the whole batch, with one part's graph at a time."


def _watched_passes(
    accumulate: Callable[..., Any], model: nn.Module, micro_batches: list[tuple[Tensor, Tensor]]
) -> tuple[str, int]:
    """Run the learner's function; returns its passes in order, "f" and "b", and how often gradients were collected."""
    log: list[str] = []
    collected: list[Tensor] = []

    def forward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            log.append("f")
            output.register_hook(lambda gradient: log.append("b"))

    handles = [
        model.register_forward_hook(forward),
        next(model.parameters()).register_post_accumulate_grad_hook(collected.append),
    ]
    try:
        accumulate(model, micro_batches)
    finally:
        for handle in handles:
            handle.remove()
    return "".join(log), len(collected)


def _expect_one_part_at_a_time(log: str, collected: int, parts: int) -> None:
    if log.count("f") == 1 and parts > 1:
        raise Mistake(
            "joined-batch",
            "the gradient is right, but the parts were joined and went through the model together. That is the big "
            "batch which was not to fit into memory: one forward and one backward pass per part.",
        )
    if collected < parts:
        raise Mistake(
            "one-backward",
            "the gradient is right, but one backward() served several parts, so all of their graphs were held at "
            "once. Call backward() inside the loop: .grad does the sum.",
        )
    if "ff" in log:
        raise Mistake(
            "forwards-first",
            "the gradient is right, but several forward passes ran before the first backward(), so several graphs "
            "waited in memory. Let each part go forward and backward before the next begins.",
        )
    if collected != parts or (log and log != "fb" * parts):
        raise Mistake(
            "not-once-per-part",
            f"the gradient is right, but there were {collected} backward passes for {parts} parts: one for each.",
        )


def _energy_network(generator: torch.Generator) -> nn.Module:
    """A small network from rows of 4 numbers to one number each, with its first weight frozen."""
    layers = [nn.utils.skip_init(nn.Linear, i, o, dtype=torch.float64) for i, o in ((4, 8), (8, 1))]
    network = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    layers[0].weight.requires_grad_(False)
    network[1].eval()
    return network


def _state(network: nn.Module) -> dict[str, list[Any]]:
    """What a visitor must leave as it was; the keys are the names of the mistakes."""
    parameters = list(network.parameters())
    return {
        "flags-changed": [p.requires_grad for p in parameters],
        "mode-changed": [m.training for m in network.modules()],
        "parameters-changed": [p.detach().clone() for p in parameters],
        "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
    }


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return first is second


def _expect_untouched(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> None:
    advice = {
        "flags-changed": "requires_grad of the parameters is not as it was: put each flag back.",
        "mode-changed": "some module's train/eval mode is not as it was: leave `.training` alone, or put each back.",
        "parameters-changed": "the weights have moved: only a gradient is asked for.",
    }
    for name, text in advice.items():
        if not all(map(_same, before[name], after[name])):
            raise Mistake(name, text)
    pairs = list(zip(before["gradients"], after["gradients"], strict=True))
    if any(old is not None and (new is None or not new.any()) for old, new in pairs):
        raise Mistake(
            "old-gradients-lost",
            "a parameter had a gradient in .grad before the call, and it is gone: zero_grad() throws away what the "
            "caller was collecting. Do not fill .grad in the first place.",
        )
    if not all(_same(old, new) for old, new in pairs):
        raise Mistake("parameter-grads", "the parameters have collected gradients: `backward()` fills every leaf.")


@check("6.5", "The input gradient of a frozen network")
def input_gradient(gradient: Callable[[nn.Module, Tensor], Tensor]) -> str:
    """``gradient(network, x)`` should return ∂(Σ network(x))/∂x and leave the network and ``x`` as they were."""
    generator = torch.Generator().manual_seed(0)
    network = _energy_network(generator)
    for rows, recording, collecting in ((3, True, False), (4, True, True), (5, False, True)):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter) if collecting and parameter.requires_grad else None
        before = _state(network)
        x = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
        wanted = x.clone().requires_grad_()
        (right,) = torch.autograd.grad(network(wanted).sum(), wanted)
        given = x.clone()
        with torch.set_grad_enabled(recording):
            try:
                got = gradient(network, given)
            except RuntimeError as error:
                if not recording:
                    advice = "right, but not when the caller is under `torch.no_grad()`: use `torch.enable_grad()`."
                    raise Mistake("fails-under-no-grad", advice) from None
                if "scalar outputs" in str(error):
                    advice = (
                        "the network gives one number for each row, and a backward pass wants a single one: sum them."
                    )
                    raise Mistake("not-summed", advice) from None
                if not any(words in str(error) for words in ("not require grad", "not have been used")):
                    raise
                advice = (
                    "the graph does not reach x: switch its flag on *before* the network runs, and cut nothing after."
                )
                raise Mistake("input-cut", advice) from None
            leaked = torch.is_grad_enabled() != recording
        if leaked:
            advice = "torch's recording switch is not as it was: use `with torch.enable_grad():`, which puts it back."
            raise Mistake("switch-leaked", advice)
        _expect_untouched(before, _state(network))
        if given.requires_grad or given.grad is not None:
            raise Mistake("input-changed", "the caller's x is now tracked: work on `x.detach()` with its own flag.")
        if not torch.equal(given, x):
            raise Mistake("input-changed", "the numbers in the caller's x have changed: detach() shares its storage.")
        if isinstance(got, tuple | list) and len(got) == 1:
            advice = "autograd.grad returns a tuple, a gradient for each input: take out its only entry."
            raise Mistake("tuple-returned", advice)
        got = expect_tensor(got, (rows, 4), "the input gradient")
        if got.requires_grad:
            raise Mistake("graph-kept", "the result still hangs on a graph, which a chain of steps would never free.")
        mistakes = {
            "sign": (-right, "the sign is turned round: the gradient itself is asked for, not minus it."),
            "mean-for-sum": (right / rows, "the rows are divided by their number: use the sum instead."),
        }
        expect_close(got, right, mistakes=mistakes, name="the input gradient", rtol=1e-7, atol=1e-9)
    return "right: the gradient reaches the input; weights, old gradients, flags and modes are as they were."


@check("6.6", "An autograd engine")
def engine(value: Any) -> str:
    """The class should behave like a one-number tensor: arithmetic, backward, flags, detach, no_grad."""
    if not isinstance(value, type):
        raise Mistake("not-a-class", "give the class itself, `Value`, not an object that it made.")
    for number, (title, stage) in enumerate(STAGES):
        try:
            stage(value)
        except NotImplementedError:
            if number == 0:
                raise NotAttempted from None
            raise Mistake("unfinished", f"{number} of {len(STAGES)} stages pass; next comes: {title}.") from None
        except Mistake as mistake:
            raise Mistake(mistake.name, f"stage {number + 1} of {len(STAGES)}, {title}: {mistake.advice}") from None
        except RecursionError:
            raise Mistake("endless", f"{title}: your code calls itself without end.") from None
        except (TypeError, AttributeError) as error:
            advice = f"{number} of {len(STAGES)} stages pass; next comes: {title} (it raised: {error})."
            raise Mistake("unfinished", advice) from None
        except Exception as error:
            advice = f"stage {number + 1} of {len(STAGES)}, {title}: your code raised {type(error).__name__}: {error}"
            raise Mistake("raised", advice) from None
    return f"all {len(STAGES)} stages pass, on random expressions to the last digits that torch gives."
