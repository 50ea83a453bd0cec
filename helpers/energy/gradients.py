r"""The score of an energy, :math:`-\nabla_x E(x)`: the gradient of log p, for which no normalising constant is needed.

From :math:`p(x) = e^{-E(x)}/Z` follows :math:`\nabla\log p(x) = -\nabla E(x)`. The energies of a batch are summed
before they are differentiated: each depends on its own x only, so that the gradient of the sum holds all gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["Energy", "NonFiniteEnergyError", "energy_and_gradient", "frozen", "score"]


class Energy(Protocol):
    """``energy(x)``, or ``energy(x, sigma[, label])`` for one that knows noise levels: x (B, …) → energies (B,)."""

    def __call__(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """E(x), shape (B,); low is likely."""


class NonFiniteEnergyError(ValueError):
    """An energy or its gradient is NaN or infinite.

    Attributes:
        bad: Which samples, shape (B,), boolean.
    """

    def __init__(self, message: str, bad: Tensor) -> None:
        super().__init__(message)
        self.bad = bad


def differentiable(x: Tensor) -> Tensor:
    """``x``, cut from what made it and ready to be differentiated by.

    Raises:
        TypeError: If it holds integers.
        ValueError: If it is not of shape (B, …).
        RuntimeError: In ``torch.inference_mode()``, which records no gradients even on request.
    """
    if not x.is_floating_point():
        raise TypeError(f"expected x of floating-point numbers, got {x.dtype}")
    if x.ndim < 2:
        raise ValueError(f"expected x of shape (B, ...), got {tuple(x.shape)}")
    if torch.is_inference_mode_enabled() or x.is_inference():
        raise RuntimeError("an energy's score is a gradient: use torch.no_grad() instead of torch.inference_mode()")
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():  # a view: autocast keeps its copies of leaves until it ends, with their graphs
        return leaf.view_as(leaf)


def energy_and_gradient(
    energy: Energy, x: Tensor, *conditions: Tensor, create_graph: bool = False, check_finite: bool = True
) -> tuple[Tensor, Tensor]:
    r"""E(x) and ∇E(x) by one pass forward and one backward; also inside ``torch.no_grad()``.

    Parameters of the energy are not touched: nothing is added to their ``.grad``.

    Args:
        energy: ``energy(x, *conditions) -> (B,)``.
        x: Shape (B, …), floating point.
        conditions: Passed on: noise levels (B,), labels (B,).
        create_graph: Whether the results can be differentiated, by parameters, and by x if x requires a gradient.
        check_finite: Whether to raise if a number is NaN or infinite.

    Returns:
        E(x), shape (B,), and ∇E(x), shape of ``x``; cut from the graph unless ``create_graph``.

    Raises:
        TypeError: If x holds integers or the energy's answer is not a tensor.
        ValueError: If the answer is not of shape (B,), or does not depend on x.
        NonFiniteEnergyError: If energies or gradients are not finite; a ``ValueError`` too.
    """
    inside = x if create_graph and x.requires_grad else differentiable(x)
    with torch.enable_grad():
        value = energy(inside, *conditions)
        _check_value(value, x)
        (gradient,) = torch.autograd.grad(value.sum(), inside, create_graph=create_graph, allow_unused=True)
    if gradient is None:
        raise ValueError(_INDEPENDENT)
    if check_finite:
        _check_finite(value, gradient)
    return (value, gradient) if create_graph else (value.detach(), gradient)


_INDEPENDENT = "expected an energy that depends on x, got one without a gradient by x: was x detached inside?"


def _check_value(value: Tensor, x: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"expected energies as a tensor, got {type(value).__name__}")
    if value.shape != x.shape[:1]:
        hint = "; squeeze the last axis" if value.shape == (*x.shape[:1], 1) else ""
        raise ValueError(f"expected one energy per sample, shape ({len(x)},), got {tuple(value.shape)}{hint}")
    if not value.requires_grad:
        raise ValueError(_INDEPENDENT)


def _check_finite(value: Tensor, gradient: Tensor) -> None:
    if value.isfinite().all() and gradient.isfinite().all():
        return
    bad = ~(value.isfinite() & gradient.isfinite().flatten(1).all(1))
    raise NonFiniteEnergyError(f"{int(bad.sum())} of {len(bad)} samples have an energy or a gradient not finite", bad)


def score(energy: Energy, x: Tensor, *conditions: Tensor, create_graph: bool = False) -> Tensor:
    r"""The score :math:`\nabla_x \log p(x) = -\nabla_x E(x)` of the density :math:`p \propto e^{-E}`.

    Equation ``eq-energy`` of ``book/notation.md``.

    Args:
        energy: ``energy(x, *conditions) -> (B,)``, low is likely.
        x: Shape (B, …), floating point.
        conditions: Passed on: noise levels (B,), labels (B,).
        create_graph: Whether the score can be differentiated, as training by score matching needs.

    Returns:
        Shape of ``x``.

    Raises:
        TypeError: If x holds integers or the energy's answer is not a tensor.
        ValueError: If the answer is not of shape (B,), does not depend on x, or is not finite
            (:class:`NonFiniteEnergyError`).

    Example:
        >>> score(lambda x: x.square().sum(1) / 2, torch.tensor([[3.0, -1.0]]))
        tensor([[-3.,  1.]])
    """
    return -energy_and_gradient(energy, x, *conditions, create_graph=create_graph)[1]


def _module(energy: object) -> nn.Module | None:
    """The module that an energy is, or a method of."""
    owner = energy if isinstance(energy, nn.Module) else getattr(energy, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


@contextmanager
def frozen(energy: object) -> Iterator[None]:
    """Hold a module still: parameters require no gradients, and every part is in evaluation mode (no dropout).

    Afterwards, even on an error, each parameter and each part is as it was. A function or another object that is
    neither a module nor a method of one is left alone; so are modules that a function keeps to itself.

    Args:
        energy: An energy, or anything else.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> with frozen(net):
        ...     net.weight.requires_grad
        False
        >>> net.weight.requires_grad
        True
    """
    module = _module(energy)
    parameters = [] if module is None else [p for p in module.parameters() if p.requires_grad]
    training = [] if module is None else [part for part in module.modules() if part.training]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for part in training:
            part.training = False
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for part in training:
            part.training = True
