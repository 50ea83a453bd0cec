"""Tests of helpers.checks._core: the three outcomes, the registry, and every branch of the expect_ functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import checks
from helpers.checks import _core
from helpers.checks._core import Mistake, NotAttempted, Outcome, check, expect_close, expect_scalar, expect_tensor


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A registry of its own for each test, so that made-up exercises do not stay."""
    registry: dict[str, Any] = {}
    monkeypatch.setattr(_core, "REGISTRY", registry)
    return registry


def double() -> Callable[..., Outcome]:
    """A small check: the answer, or a function that gives it, should be 2."""

    @check("9.9", "Two")
    def two(answer: Any, factor: int = 1) -> str:
        """Check for 2."""
        value = answer() if callable(answer) else answer
        expect_close(value, 2.0 * factor, mistakes={"sign": (-2.0 * factor, "mind the sign.")})
        return "that is two."

    return two


def stub() -> None:
    raise NotImplementedError


# ── outcomes ──────────────────────────────────────────────────────────────


def test_right_answer_passes_with_the_praise() -> None:
    outcome = double()(lambda: 2)
    assert outcome == Outcome("9.9", "Two", "passed", "that is two.")
    assert outcome.mistake is None
    assert repr(outcome) == "✓ Exercise 9.9 (Two): that is two."


def test_known_mistake_fails_by_its_name() -> None:
    outcome = double()(-2.0)
    assert outcome == Outcome("9.9", "Two", "failed", "mind the sign.", "sign")
    assert repr(outcome) == "✗ Exercise 9.9 (Two): mind the sign."


@pytest.mark.parametrize("answer", [..., stub, lambda: ...])
def test_stub_is_open(answer: Any) -> None:
    outcome = double()(answer)
    assert (outcome.status, outcome.mistake) == ("open", None)
    assert repr(outcome).startswith("○ Exercise 9.9 (Two): not attempted yet.")


def test_ellipsis_among_several_answers_is_open_and_named_answers_arrive() -> None:
    two = double()
    assert two(4, factor=2).status == "passed"
    assert two(4, factor=...).status == "open"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: 1 / 0, "your code raised ZeroDivisionError: division by zero"),
        (lambda: torch.ones(2) @ torch.ones(3), "your code raised RuntimeError: "),
        # torch raises NotImplementedError too, and that is not an untouched stub:
        (lambda: torch.empty(3).long().normal_(), "your code raised NotImplementedError: "),
        (lambda: torch.nn.Module()(1), "your code raised NotImplementedError: "),
    ],
)
def test_an_exception_of_the_learner_is_reported_not_raised(answer: Any, message: str) -> None:
    outcome = double()(answer)
    assert (outcome.status, outcome.mistake) == ("failed", "raised")
    assert outcome.message.startswith(message)


def test_interrupts_are_not_swallowed() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        double()(interrupted)


def test_outcomes_cannot_be_changed() -> None:
    outcome = double()(2)
    with pytest.raises(AttributeError):
        outcome.status = "failed"  # type: ignore[misc]


# ── the registry ──────────────────────────────────────────────────────────


def test_checks_register_and_keep_their_name_and_docstring(empty_registry: dict[str, Any]) -> None:
    two = double()
    assert empty_registry == {"9.9": two}
    assert (two.__name__, two.__doc__) == ("two", "Check for 2.")


def test_duplicate_number_raises_and_keeps_the_first(empty_registry: dict[str, Any]) -> None:
    first = double()
    with pytest.raises(ValueError, match=r"exercise 9\.9 has a check already: two"):
        double()
    assert empty_registry["9.9"] is first


def test_every_module_of_checks_loads_by_its_name_and_registers_numbers_of_one_lesson(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()  # the course's own registry
    files = sorted(Path(checks.__file__).parent.glob("[!_]*.py"))
    assert files
    for file in files:
        module = getattr(checks, file.stem)
        assert module is import_module(f"helpers.checks.{file.stem}")
        own = [n for n, f in checks.REGISTRY.items() if f.__module__ == module.__name__]
        assert own, f"{file.name} registers no check"
        assert len({number.split(".")[0] for number in own}) == 1, own
        assert all(re.fullmatch(r"\d+\.\d+", number) for number in own), own


def test_unknown_module_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'helpers\.checks' has no attribute 'no_such_lesson'"):
        _ = checks.no_such_lesson
    assert not hasattr(checks, "_private")


# ── expect_tensor ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [2, 2.0, [1, 2], (1.0, 2.0), np.float32(2), np.eye(2), torch.eye(2), True])
def test_numbers_lists_arrays_and_tensors_are_taken(value: Any) -> None:
    got = expect_tensor(value)
    torch.testing.assert_close(got, torch.as_tensor(value))


def test_the_shape_is_asked_for_only_if_given() -> None:
    value = torch.zeros(2, 3)
    assert expect_tensor(value) is value
    assert expect_tensor(value, (2, 3)) is value
    assert expect_tensor(torch.zeros(2, 0), (2, 0)).numel() == 0


@pytest.mark.parametrize(
    ("value", "shape", "name", "advice"),
    [
        (None, None, "returned-none", "got None for x. Does your function end with a `return`?"),
        (stub, None, "not-called", "got a function for x. Did you forget to call it?"),
        (lambda: 1, None, "not-called", "got a function for x. Did you forget to call it?"),
        ("two", None, "wrong-type", "x should be a tensor or a number, got str."),
        ({"a": 1}, None, "wrong-type", "x should be a tensor or a number, got dict."),
        ([torch.zeros(2), torch.zeros(2)], None, "wrong-type", "x should be a tensor or a number, got list."),
        (torch.nn.ReLU(), None, "wrong-type", "x should be a tensor or a number, got ReLU."),
        (1 + 2j, None, "wrong-type", "x should be real, got complex numbers."),
        (torch.zeros(3, 2), (2, 3), "wrong-shape", "x should have shape (2, 3), got (3, 2)."),
        (1.0, (1,), "wrong-shape", "x should have shape (1,), got ()."),
        ([1.0, float("nan")], None, "not-finite", "there are infinities or NaN in x."),
        (float("inf"), (), "not-finite", "there are infinities or NaN in x."),
    ],
)
def test_expect_tensor_names_what_is_wrong(value: Any, shape: Any, name: str, advice: str) -> None:
    with pytest.raises(Mistake) as caught:
        expect_tensor(value, shape, "x")
    assert (caught.value.name, caught.value.advice, str(caught.value)) == (name, advice, advice)


@pytest.mark.parametrize("expect", [expect_tensor, expect_scalar, lambda value: expect_close(value, 1.0)])
def test_an_ellipsis_as_value_is_not_an_attempt(expect: Callable[[Any], Any]) -> None:
    with pytest.raises(NotAttempted):
        expect(...)


# ── expect_scalar ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [2, 2.0, np.float64(2), torch.tensor(2), torch.tensor([[2.0]]), [2.0]])
def test_one_number_in_any_dress_is_a_scalar(value: Any) -> None:
    got = expect_scalar(value)
    assert isinstance(got, float)
    assert got == 2.0


def test_a_tracked_scalar_gives_no_warning() -> None:
    assert expect_scalar(torch.tensor(2.0, requires_grad=True)) == 2.0


@pytest.mark.parametrize(
    ("value", "name"),
    [([1.0, 2.0], "wrong-shape"), ([], "wrong-shape"), (float("nan"), "not-finite"), (None, "returned-none")],
)
def test_what_is_not_one_number_is_named(value: Any, name: str) -> None:
    with pytest.raises(Mistake) as caught:
        expect_scalar(value)
    assert caught.value.name == name


# ── expect_close ──────────────────────────────────────────────────────────

TABLE = {
    "negative": ([-1.0, -2.0], "mind the sign."),
    "summed": (3.0, "do not sum."),
    "also-negative": ([-1.0, -2.0], "never reached."),
}


def close_to(value: Any, **options: Any) -> str | None:
    """The name of the mistake, or None."""
    try:
        expect_close(value, [1.0, 2.0], mistakes=TABLE, **options)
    except Mistake as mistake:
        return mistake.name
    return None


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        np.array([1, 2], dtype=np.float16),
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.tensor([1.00009, 2.0001]),
    ],
)
def test_close_values_of_any_type_pass(value: Any) -> None:
    assert close_to(value) is None


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ([-1.0, -2.0], "negative"),
        ([-1.00001, -2.0], "negative"),
        (3, "summed"),
        ([1.0, 2.1], "wrong-value"),
        ([[1.0, 2.0]], "wrong-shape"),
        (1.0, "wrong-shape"),
        ([1.0, float("nan")], "not-finite"),
        ([1.0, float("inf")], "not-finite"),
        (None, "returned-none"),
        (len, "wrong-type"),
        (stub, "not-called"),
    ],
)
def test_mistakes_are_recognised_in_order(value: Any, name: str) -> None:
    assert close_to(value) == name


def test_tolerances_are_relative_and_absolute() -> None:
    assert close_to([1.01, 2.0]) == "wrong-value"
    assert close_to([1.01, 2.0], rtol=0.02) is None
    assert close_to([1.01, 2.0], rtol=0, atol=0.02) is None
    assert close_to([-1.01, -2.0]) == "wrong-value"
    assert close_to([-1.01, -2.0], atol=0.02) == "negative"


def test_the_right_answer_wins_over_a_mistake_that_gives_the_same() -> None:
    expect_close(0.0, 0.0, mistakes={"sign": (-0.0, "mind the sign.")})


@pytest.mark.parametrize(
    ("otherwise", "advice"), [(None, "there is still an error of up to 0.5 in z."), ("Look again.", "Look again.")]
)
def test_an_unknown_mistake_gets_the_size_or_the_given_advice(otherwise: str | None, advice: str) -> None:
    with pytest.raises(Mistake) as caught:
        expect_close([1.0, 2.5], [1.0, 2.0], name="z", otherwise=otherwise)
    assert (caught.value.name, caught.value.advice) == ("wrong-value", advice)


def test_integers_are_compared_as_numbers() -> None:
    expect_close(torch.tensor([3]), [3])
    with pytest.raises(Mistake, match=r"an error of up to 2 in your result\."):
        expect_close(5, 3)
