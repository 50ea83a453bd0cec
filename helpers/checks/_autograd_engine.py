"""What an autograd engine must do, stage by stage: the tests behind exercise 6.6."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from typing import Any

import torch

from ._core import Mistake

__all__ = ["STAGES"]


def _near(got: Any, expected: float) -> bool:
    return isinstance(got, int | float) and math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-9)


def _demand(condition: bool, name: str, advice: str) -> None:
    if not condition:
        raise Mistake(name, advice)


def _stage_forward(value: Any) -> None:
    x, y = value(3.0, requires_grad=True), value(-2.0)
    _demand(_near(x.data, 3.0), "forward", "Value(3.0).data should be 3.0.")
    for text, got, right in (("+", x + y, 1.0), ("*", x * y, -6.0)):
        _demand(isinstance(got, value), "forward", f"x {text} y should be a Value, got {type(got).__name__}.")
        _demand(_near(got.data, right), "forward", f"3 {text} (−2) should be {right:g}, got {got.data!r}.")


def _stage_seed(value: Any) -> None:
    x, y = value(3.0, requires_grad=True), value(5.0)
    (x + y).backward()
    advice = f"(x + 5).backward() left x.grad = {x.grad!r}, not 1: the pass starts with dy/dy = 1 at the output."
    _demand(x.grad is not None and not _near(x.grad, 0.0), "seed-missing", advice)
    _demand(_near(x.grad, 1.0), "sum-rule", f"d(x + 5)/dx is 1, got {x.grad!r}.")


def _stage_product(value: Any) -> None:
    x, y = value(3.0, requires_grad=True), value(-2.0, requires_grad=True)
    (x * y).backward()
    advice = f"for x·y at (3, −2) the gradients are (−2, 3), got ({x.grad!r}, {y.grad!r}): each gets the other."
    _demand(_near(x.grad, -2.0) and _near(y.grad, 3.0), "product-rule", advice)


def _stage_power(value: Any) -> None:
    for n, right in ((3, 12.0), (2, 4.0), (-1, -0.25)):
        x = value(2.0, requires_grad=True)
        y = x**n
        _demand(_near(y.data, 2.0**n), "forward", f"2 ** {n} should be {2.0**n:g}, got {y.data!r}.")
        y.backward()
        advice = f"d(x^{n})/dx at 2 is {n}·2^{n - 1} = {right:g}, got {x.grad!r}."
        _demand(_near(x.grad, right), "power-rule", advice)


def _stage_chain(value: Any) -> None:
    programs: tuple[tuple[str, Callable[[Any, Any], Any], float], ...] = (
        ("(x·a)·a", lambda x, a: (x * a) * a, 25.0),
        ("(x + a)·a", lambda x, a: (x + a) * a, 5.0),
        ("a·(x·a)", lambda x, a: a * (x * a), 25.0),
    )
    for text, program, right in programs:
        x = value(2.0, requires_grad=True)
        program(x, value(5.0)).backward()
        advice = f"for y = {text} at x = 2, a = 5 the gradient is {right:g}, got {x.grad!r}: multiply by what arrives."
        _demand(_near(x.grad, right), "missing-chain-factor", advice)


def _stage_reuse(value: Any) -> None:
    for text, program, right in (("x + x", lambda x: x + x, 2.0), ("x·x", lambda x: x * x, 6.0)):
        x = value(3.0, requires_grad=True)
        program(x).backward()
        advice = f"for {text} at 3 the gradient is {right:g}, got {x.grad!r}: contributions add up (+=, not =)."
        _demand(_near(x.grad, right), "overwrites", advice)


def _stage_diamond(value: Any) -> None:
    programs: tuple[Callable[[Any], Any], ...] = (
        lambda a: a * a * a + a,
        lambda a: a + a * a * a,
        lambda a: (a + a) * a,
        lambda a: a * (a + a),
    )
    rights = (26.0, 26.0, 16.0, 16.0)  # at a = 2x = 2, with da/dx = 2
    for program, right in zip(programs, rights, strict=True):
        x = value(1.0, requires_grad=True)
        program(x * value(2.0)).backward()
        advice = (
            f"a node with several consumers gave {x.grad!r} in place of {right:g}: pass a node's gradient on only "
            "once, after all of its consumers have reported (topological order)."
        )
        _demand(_near(x.grad, right), "wrong-order", advice)


def _stage_other_operations(value: Any) -> None:
    x, y = value(3.0, requires_grad=True), value(2.0, requires_grad=True)
    (-x - y).backward()
    advice = f"for −x − y both gradients are −1, got ({x.grad!r}, {y.grad!r})."
    _demand(_near(x.grad, -1.0) and _near(y.grad, -1.0), "minus-sign", advice)
    x, y = value(3.0, requires_grad=True), value(2.0, requires_grad=True)
    z = x / y
    z.backward()
    advice = f"x/y at (3, 2) is 1.5 with slopes 1/y = 0.5, −x/y² = −0.75; got {z.data!r}, {x.grad!r}, {y.grad!r}."
    _demand(_near(z.data, 1.5) and _near(x.grad, 0.5) and _near(y.grad, -0.75), "quotient-rule", advice)


def _stage_numbers(value: Any) -> None:
    programs: tuple[tuple[str, Callable[[Any], Any], float, float], ...] = (
        ("2 + x", lambda x: 2 + x, 6.0, 1.0),
        ("x + 2", lambda x: x + 2, 6.0, 1.0),
        ("3 * x", lambda x: 3 * x, 12.0, 3.0),
        ("x * 3", lambda x: x * 3, 12.0, 3.0),
        ("1 - x", lambda x: 1 - x, -3.0, -1.0),
        ("x - 1", lambda x: x - 1, 3.0, 1.0),
        ("2 / x", lambda x: 2 / x, 0.5, -0.125),
        ("x / 2", lambda x: x / 2, 2.0, 0.5),
    )
    for text, program, right, slope in programs:
        x = value(4.0, requires_grad=True)
        try:
            y = program(x)
        except (TypeError, AttributeError):
            advice = f"{text} fails: wrap plain numbers in a Value, also in __radd__ and its kin."
            raise Mistake("plain-numbers", advice) from None
        _demand(_near(y.data, right), "reflected-order", f"{text} at x = 4 is {right:g}, got {y.data!r}.")
        y.backward()
        _demand(_near(x.grad, slope), "reflected-order", f"{text} at x = 4 has slope {slope:g}, got {x.grad!r}.")


def _flag(node: Any, name: str) -> bool:
    flag = getattr(node, name)
    return bool(flag() if callable(flag) else flag)


def _stage_flags(value: Any) -> None:
    x, c = value(2.0, requires_grad=True), value(3.0)
    _demand(not _flag(c, "requires_grad"), "tracked-by-default", "Value(3.0) should not be tracked by default.")
    y = x * c
    _demand(_flag(y, "requires_grad"), "flag-not-inherited", "x·c is tracked because x is: the flag is inherited.")
    constant = c * c
    _demand(not _flag(constant, "requires_grad"), "flag-not-inherited", "c·c is not tracked: none of its inputs is.")
    leaves = [_flag(node, "is_leaf") for node in (x, c, y)]
    advice = f"is_leaf of x, c, x·c should be True, True, False; got {leaves}."
    _demand(leaves == [True, True, False], "leaf-flag", advice)
    _demand(x.grad is None, "grad-before-backward", f"x.grad should be None before backward(), got {x.grad!r}.")
    y.backward()
    _demand(c.grad is None, "constant-grad", f"c is not tracked, so c.grad should stay None; got {c.grad!r}.")
    try:
        constant.backward()
    except RuntimeError:
        return
    raise Mistake("no-error", "backward() on a value that is not tracked should raise a RuntimeError, as torch does.")


def _stage_accumulate(value: Any) -> None:
    x = value(1.0, requires_grad=True)
    (2 * x).backward()
    (3 * x).backward()
    advice = f"after 2x and 3x, two passes without a reset, x.grad should be 5, got {x.grad!r}: passes add up."
    _demand(_near(x.grad, 5.0), "resets-by-itself", advice)
    x.zero_grad()
    advice = "zero_grad() should empty .grad: None, as before the first pass. A 0 says that a gradient has arrived."
    _demand(x.grad is None or not _near(x.grad, 0.0), "zero-not-none", advice)
    _demand(x.grad is None, "zero-grad", f"zero_grad() should empty .grad, got {x.grad!r}.")
    (3 * x).backward()
    _demand(_near(x.grad, 3.0), "zero-grad", f"zero_grad(), then a pass through 3x, should give 3, got {x.grad!r}.")
    x = value(2.0, requires_grad=True)
    z = 3 * x
    (2 * z).backward()
    (5 * z).backward()
    advice = (
        f"two passes through a shared z = 3x gave {x.grad!r}, not 6 + 15 = 21: what z received in the first pass "
        "was sent on again. Only leaves keep their gradient between passes."
    )
    _demand(_near(x.grad, 21.0), "stale-intermediates", advice)
    advice = (
        f"z = 3x is no leaf, so z.grad should stay None; got {z.grad!r}. Adjoints belong to the pass, not to nodes."
    )
    _demand(z.grad is None, "grad-on-non-leaf", advice)


def _stage_seed_argument(value: Any) -> None:
    x = value(2.0, requires_grad=True)
    (x * x).backward(4.0)
    _demand(_near(x.grad, 16.0), "seed-ignored", f"(x·x).backward(4.0) at x = 2 should give 16, got {x.grad!r}.")


def _stage_cut(value: Any) -> None:
    x = value(3.0, requires_grad=True)
    cut = x.detach()
    advice = "x.detach() should be a new Value with x's number, without a flag and without a graph; x stays as it is."
    fresh = cut is not x and _near(cut.data, 3.0) and not _flag(cut, "requires_grad") and _flag(x, "requires_grad")
    _demand(fresh, "detach", advice)
    (x * x.detach()).backward()
    _demand(_near(x.grad, 3.0), "detach", f"for x·x.detach() at 3 the gradient is 3, got {x.grad!r}.")
    with value.no_grad():
        hidden = x * x
    _demand(
        not _flag(hidden, "requires_grad"),
        "records-under-no-grad",
        "a product made under no_grad() must not be tracked.",
    )
    _demand(
        _flag(x * x, "requires_grad"), "no-grad-stays-on", "after the no_grad() block recording should be on again."
    )


def _stage_switch(value: Any) -> None:
    """The corners of no_grad(): leaves made inside, nested blocks, blocks left by an error."""
    x = value(3.0, requires_grad=True)
    with value.no_grad():
        born_inside = value(1.0, requires_grad=True)
        with value.no_grad():
            pass
        hidden = x * x
    advice = "a leaf made with requires_grad=True under no_grad() is tracked all the same: the block stops *recording*."
    _demand(_flag(born_inside, "requires_grad"), "leaf-untracked", advice)
    advice = "the end of an inner no_grad() block switched recording on while an outer one was open: restore what was."
    _demand(not _flag(hidden, "requires_grad"), "no-grad-nested", advice)
    _demand(_flag(x * x, "requires_grad"), "no-grad-stays-on", "after nested no_grad() blocks recording stays off.")
    try:
        with value.no_grad():
            raise InterruptedError
    except InterruptedError:
        pass
    advice = "an error inside the no_grad() block leaves recording off for good: put the switch back in a `finally`."
    _demand(_flag(x * x, "requires_grad"), "no-grad-after-error", advice)


def _stage_cost(value: Any) -> None:
    """Doublings: as many paths as 2^n, but n nodes. Counts calls, because clocks differ."""
    doublings, calls = 13, 0
    y = x = value(1.0, requires_grad=True)
    for _ in range(doublings):
        y = y + y

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    previous = sys.getprofile()
    sys.setprofile(count)
    try:
        y.backward()
    finally:
        sys.setprofile(previous)
    _demand(_near(x.grad, 2.0**doublings), "overwrites", f"{doublings} doublings give 2^{doublings}, got {x.grad!r}.")
    advice = "right, but it walks every *path*, 2ⁿ after n doublings. Visit each node once, after its consumers."
    _demand(calls < 2**doublings / 2, "exponential-paths", advice)


def _stage_questions(value: Any) -> None:
    """The numbers of Q6 to Q9."""
    x, w0, w1 = value(2.0, requires_grad=True), value(1.0, requires_grad=True), value(3.0, requires_grad=True)
    (w0 * x**2 + w1 * x).backward()
    got = (x.grad, w0.grad, w1.grad)
    _demand(all(map(_near, got, (7.0, 4.0, 2.0))), "questions", f"Q7 wants gradients 7, 4 and 2, got {got}.")
    x = value(2.0, requires_grad=True)
    (2 * (3 * x)).backward()
    _demand(_near(x.grad, 6.0), "questions", f"Q8 mended wants 6, got {x.grad!r}.")
    x = value(2.0, requires_grad=True)
    (x**2).backward(4.0)
    x.backward(2.0)
    _demand(_near(x.grad, 18.0), "questions", f"Q8, second form, with weights 4 and 2 wants 18, got {x.grad!r}.")
    for zeroing, right in ((True, 1.64), (False, 1.44)):
        w = value(2.0, requires_grad=True)
        for _ in range(2):
            if zeroing:
                w.zero_grad()
            ((w - 1) ** 2).backward()
            w.data = w.data - 0.1 * w.grad
        _demand(_near(w.data, right), "questions", f"Q9's loop wants {right}, got {w.data!r}.")


def _random_program(source: random.Random, x: list[Any]) -> Any:
    """An expression in the given values, built by generic operators, so that it runs on Values and tensors alike."""
    pool = list(x)
    for _ in range(12):
        a, b = source.choice(pool), source.choice(pool)
        pool.append(
            source.choice(
                [
                    lambda a=a, b=b: 0.5 * a + b,
                    lambda a=a, b=b: a - 0.7 * b,
                    lambda a=a, b=b: 0.3 * a * b,
                    lambda a=a, b=b: a / (b * b + 1),
                    lambda a=a: 0.1 * a**3 - a,
                    lambda a=a: (a * a + 2) ** -0.5,
                ]
            )()
        )
    return pool[-1] + pool[-2] * pool[-3]


def _stage_torch(value: Any) -> None:
    for seed in range(20):
        numbers = [random.Random(seed).uniform(-1.5, 1.5) for _ in range(3)]
        mine = [value(n, requires_grad=True) for n in numbers]
        theirs = [torch.tensor(n, dtype=torch.float64, requires_grad=True) for n in numbers]
        y, reference = (_random_program(random.Random(100 + seed), inputs) for inputs in (mine, theirs))
        if not reference.requires_grad:
            continue
        y.backward()
        reference.backward()
        for a, b in zip(mine, theirs, strict=True):
            want = 0.0 if b.grad is None else float(b.grad)
            got = 0.0 if a.grad is None else a.grad
            close = math.isclose(y.data, float(reference.detach()), rel_tol=1e-9, abs_tol=1e-9)
            advice = f"a random expression gave a gradient of {got!r} where torch gives {want:.6g}."
            _demand(close and math.isclose(got, want, rel_tol=1e-8, abs_tol=1e-9), "disagrees-with-torch", advice)


STAGES: tuple[tuple[str, Callable[[Any], None]], ...] = (
    ("numbers, + and *", _stage_forward),  # step 1 of the exercise: record
    ("the seed of backward()", _stage_seed),  # step 2: walk
    ("the product rule", _stage_product),
    ("the chain rule", _stage_chain),
    ("values that are used twice", _stage_reuse),
    ("the order of the pass", _stage_diamond),
    ("the cost", _stage_cost),
    ("backward(seed)", _stage_seed_argument),
    ("** and the power rule", _stage_power),  # step 3: more operations
    ("−, / and negation", _stage_other_operations),
    ("plain numbers on either side", _stage_numbers),
    ("flags: requires_grad and is_leaf", _stage_flags),  # step 4: flags and leaves
    ("several passes and zero_grad()", _stage_accumulate),
    ("detach() and no_grad()", _stage_cut),  # step 5: cuts
    ("no_grad() nested, left by an error, around new leaves", _stage_switch),
    ("Q6 to Q9", _stage_questions),  # all together
    ("random expressions against torch", _stage_torch),
)
"""Title and test of each stage, in the order in which an engine is built; a test raises :class:`Mistake`."""
