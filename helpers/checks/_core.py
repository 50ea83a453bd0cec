"""How an exercise check speaks: open, passed, or failed with the mistake named.

A check is a function that receives the learner's function or value. It raises
:class:`Mistake` when it recognises what went wrong and returns a sentence of
praise when all is right. The :func:`check` decorator turns that into an
:class:`Outcome`, which a notebook cell displays as its result. A check never
raises: an unfinished notebook stays green, and ``outcome.status`` serves tests
and batch grading.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["REGISTRY", "Mistake", "NotAttempted", "Outcome", "check", "expect_close", "expect_scalar", "expect_tensor"]

REGISTRY: dict[str, Callable[..., Outcome]] = {}
"""Every check by its exercise number, e.g. ``"1.2"``."""


class Mistake(Exception):
    """A wrong answer, with the name of the mistake and advice for the learner.

    Args:
        name: Short identifier in kebab case, e.g. ``"missing-root"``; tests compare it.
        advice: One or two sentences: what it looks like, and where to look.
    """

    def __init__(self, name: str, advice: str) -> None:
        super().__init__(advice)
        self.name = name
        self.advice = advice


class NotAttempted(Exception):
    """The stub is as it was given."""


@dataclass(frozen=True)
class Outcome:
    """The result of one check; its ``repr`` is what the learner reads.

    Attributes:
        exercise: Number of the exercise, e.g. ``"1.2"``.
        title: Its title.
        status: ``"open"`` (not attempted), ``"passed"`` or ``"failed"``.
        message: What to tell the learner.
        mistake: Name of the mistake when failed, else ``None``.
    """

    exercise: str
    title: str
    status: Literal["open", "passed", "failed"]
    message: str
    mistake: str | None = None

    def __repr__(self) -> str:
        mark = {"open": "○", "passed": "✓", "failed": "✗"}[self.status]
        return f"{mark} Exercise {self.exercise} ({self.title}): {self.message}"


def check(exercise: str, title: str) -> Callable[[Callable[..., str]], Callable[..., Outcome]]:
    """Make an exercise check out of a function that raises :class:`Mistake` or returns praise.

    Args:
        exercise: Number of the exercise; unique in the course.
        title: Title of the exercise, as in the lesson.

    Returns:
        A decorator. The decorated check returns an :class:`Outcome` and registers itself in :data:`REGISTRY`.

    Raises:
        ValueError: If another check has that number already.
    """

    def decorate(function: Callable[..., str]) -> Callable[..., Outcome]:
        @functools.wraps(function)
        def checked(*answers: Any, **named: Any) -> Outcome:
            def outcome(
                status: Literal["open", "passed", "failed"], message: str, mistake: str | None = None
            ) -> Outcome:
                return Outcome(exercise, title, status, message, mistake)

            def unfinished() -> Outcome:
                return outcome(
                    "open", "not attempted yet. Write your answer in the cell above, run it, then run this one again."
                )

            try:
                if any(answer is Ellipsis for answer in (*answers, *named.values())):
                    raise NotAttempted
                return outcome("passed", function(*answers, **named))
            except NotAttempted:
                return unfinished()
            except Mistake as mistake:
                return outcome("failed", mistake.advice, mistake.name)
            except Exception as error:
                if isinstance(error, NotImplementedError) and not error.args:  # a stub; torch's own have a message
                    return unfinished()
                text = f"your code raised {type(error).__name__}: {error}"
                return outcome("failed", text, "raised")

        if exercise in REGISTRY:
            raise ValueError(f"exercise {exercise} has a check already: {REGISTRY[exercise].__name__}")
        REGISTRY[exercise] = checked
        return checked

    return decorate


def _as_tensor(value: Any, name: str) -> Tensor:
    if value is Ellipsis:
        raise NotAttempted
    if value is None:
        raise Mistake("returned-none", f"got None for {name}. Does your function end with a `return`?")
    if inspect.isfunction(value):
        raise Mistake("not-called", f"got a function for {name}. Did you forget to call it?")
    try:
        tensor = torch.as_tensor(value.copy() if isinstance(value, np.ndarray) else value)  # strides may be negative
    except (TypeError, ValueError, RuntimeError):
        raise Mistake("wrong-type", f"{name} should be a tensor or a number, got {type(value).__name__}.") from None
    if tensor.is_complex():
        raise Mistake("wrong-type", f"{name} should be real, got complex numbers.")
    return tensor


def expect_tensor(value: Any, shape: tuple[int, ...] | None = None, name: str = "your result") -> Tensor:
    """Return the learner's value as a finite tensor of the right shape, or say what is wrong with it.

    Args:
        value: What the learner's code gave: a tensor, array, number or list.
        shape: Expected shape; ``None`` accepts any.
        name: How messages call the value, in the singular or the plural.

    Raises:
        Mistake: ``returned-none``, ``wrong-type``, ``wrong-shape`` or ``not-finite``.
        NotAttempted: If the value is ``...``.
    """
    tensor = _as_tensor(value, name)
    if shape is not None and tuple(tensor.shape) != tuple(shape):
        raise Mistake("wrong-shape", f"{name} should have shape {tuple(shape)}, got {tuple(tensor.shape)}.")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise Mistake("not-finite", f"there are infinities or NaN in {name}.")
    return tensor


def expect_scalar(value: Any, name: str = "your result") -> float:
    """Return the learner's value as a float; one-element tensors count.

    Raises:
        Mistake: If it is not one finite number.
        NotAttempted: If the value is ``...``.
    """
    tensor = expect_tensor(value, None, name)
    if tensor.numel() != 1:
        raise Mistake("wrong-shape", f"{name} should be one number, got shape {tuple(tensor.shape)}.")
    return float(tensor.detach())


def expect_close(
    value: Any,
    expected: Any,
    *,
    mistakes: Mapping[str, tuple[Any, str]] | None = None,
    name: str = "your result",
    rtol: float = 1e-4,
    atol: float = 1e-6,
    otherwise: str | None = None,
) -> None:
    """Compare with the right answer, and a wrong one with the answers that typical mistakes would give.

    Args:
        value: The learner's value.
        expected: The right answer; its shape is required too.
        mistakes: Mistake name → (the value this mistake gives, advice). The first that matches is reported.
        name: How messages call the value.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        otherwise: Advice when no known mistake matches.

    Raises:
        Mistake: With the name of the recognised mistake, ``wrong-shape``, or ``wrong-value``.
        NotAttempted: If the value is ``...``.
    """
    expected = torch.as_tensor(expected).double()
    got = _as_tensor(value, name).detach().cpu().double()
    if got.shape == expected.shape and torch.allclose(got, expected, rtol=rtol, atol=atol):
        return
    for mistake, (wrong, advice) in (mistakes or {}).items():
        wrong = torch.as_tensor(wrong).double()
        if got.shape == wrong.shape and torch.allclose(got, wrong, rtol=rtol, atol=atol):
            raise Mistake(mistake, advice)
    expect_tensor(got, tuple(expected.shape), name)
    worst = (got - expected).abs().max().item()
    raise Mistake("wrong-value", otherwise or f"there is still an error of up to {worst:.3g} in {name}.")
