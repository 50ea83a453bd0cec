r"""Few-step solvers of the probability-flow ODE in continuous noise.

With x at noise level σ and a denoiser :math:`D(x;\sigma) = E[x_0|x]`, the ODE whose solutions have the marginals of
:math:`x_0 + \sigma\varepsilon` at every σ is (Karras et al. 2022, arXiv:2206.00364, eq. 1 and 3)

.. math:: \frac{dx}{d\sigma} = d(x, \sigma) = \frac{x - D(x;\sigma)}{\sigma}.

A run starts from :math:`x_T \approx N(0, \sigma_{max}^2)` and goes down a grid of noise levels to σ = 0. In
:math:`\lambda = -\log\sigma` (half the log SNR), with :math:`h = \lambda' - \lambda` for a step σ → σ', the linear part
of the ODE is solved exactly by (Lu et al. 2022, arXiv:2211.01095, proposition 4.1)

.. math:: x(\sigma') = e^{-h} x(\sigma) + \int_0^h e^{-(h-s)}\, D(\lambda + s)\, ds,

and what a solver needs is a model of D, or of d, along the step:

======================  ==================================================================  ===========  ======
solver                  what is assumed along a step                                        evaluations  order
======================  ==================================================================  ===========  ======
:class:`Euler`          D constant (the same as d constant); DDIM in other variables        1            1
:class:`Heun`           d linear in σ: the mean of both ends                                2            2
:class:`DPMSolverPP2M`  D linear in λ through this and the previous level                   1            2
:class:`IPNDM`          d a cubic in σ through four levels, taken as evenly spaced          1            2
:class:`UniPC`          D a quadratic in λ through three levels, then corrected with the    1            3 to 4
                        next level's D
======================  ==================================================================  ===========  ======

The order is that of the error at a fixed σ > 0 as the grid is refined. Multistep solvers start with lower orders:
UniPC's steps are of fourth order, and its first one makes an error of third order, which shows unless D hardly moves
there, as at a large σ_max. Those in λ, where σ = 0 is infinitely far, end with a first-order step,
:math:`x = D(x;\sigma)`.

States are float64 (float32 on devices without it), so that the solver adds no rounding error to the denoiser's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from .denoisers import Denoiser
from .discrete import evaluating

__all__ = [
    "IPNDM",
    "Churn",
    "ContinuousTrajectory",
    "CountedDenoiser",
    "DPMSolverPP2M",
    "Euler",
    "Heun",
    "History",
    "Solver",
    "UniPC",
    "evaluations",
    "sample_ode",
    "steps_for",
]


class CountedDenoiser:
    """A denoiser as solvers call it: float64 state in, float64 guess out, one σ for all; counted and checked.

    Args:
        denoiser: The denoiser.
        dtype: In which it is called.
        label: Class numbers (B,), or None.

    Attributes:
        count: How many times it was called.
    """

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype, label: Tensor | None = None) -> None:
        self.denoiser, self.dtype, self.label = denoiser, dtype, label
        self.count = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """D(x; σ) in the dtype of ``x``.

        Raises:
            ValueError: If the denoiser's answer has another shape, or holds NaN or infinity.
        """
        self.count += 1
        levels = torch.full((len(x),), sigma, dtype=self.dtype, device=x.device)
        given = x.to(self.dtype)
        guess = self.denoiser(given, levels) if self.label is None else self.denoiser(given, levels, self.label)
        if guess.shape != x.shape:
            raise ValueError(f"expected a denoised image of shape {tuple(x.shape)}, got {tuple(guess.shape)}")
        if not bool(guess.isfinite().all()):
            raise ValueError(f"the denoiser gave NaN or infinity at sigma = {sigma:.4g} (evaluation {self.count})")
        return guess.to(x.dtype)


@dataclass
class History:
    """What a multistep solver remembers of one run. Each run has its own, so that a solver itself has no state.

    Attributes:
        orders: The order of each step of the run.
        sigmas: Noise levels of the last steps, the newest one last, as many as the highest order needs.
        values: What was found there (D or d), one for each of ``sigmas``.
        x: Where the last step started.
        steps: How many steps were taken.
    """

    orders: tuple[int, ...]
    sigmas: list[float] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    x: Tensor | None = None
    steps: int = 0

    @property
    def order(self) -> int:
        """Of the step under way."""
        return self.orders[self.steps]

    def remember(self, sigma: float, value: Tensor) -> None:
        """End a step: add its level, and let go of those that no later step can use."""
        kept = max(self.orders)
        self.steps += 1
        self.sigmas = [*self.sigmas, sigma][-kept:]
        self.values = [*self.values, value][-kept:]


class Solver(Protocol):
    """What :func:`sample_ode` runs: one step from σ to σ' < σ.

    Attributes:
        stages: Evaluations a step, the one at its start included; a step to σ = 0 always has one.
        multistep: Whether a step uses what earlier steps found.
    """

    stages: int
    multistep: bool

    def start(self, sigmas: Sequence[float]) -> History | None:
        """A new run down this grid: an empty history, or None if the solver needs none."""

    def step(
        self, denoise: CountedDenoiser, x: Tensor, x_0: Tensor, sigma: float, sigma_next: float, history: History | None
    ) -> Tensor:
        """From x at σ, with D(x; σ) = ``x_0``, to x at ``sigma_next``; may call ``denoise``, and keeps ``history``."""


def _euler_step(x: Tensor, x_0: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """x + (σ' − σ)(x − D)/σ = e^{−h} x + (1 − e^{−h}) D, since e^{−h} = σ'/σ; σ' = 0 gives D to the last bit."""
    return x_0 + sigma_next / sigma * (x - x_0)


@dataclass(frozen=True)
class Euler:
    """x' = x + (σ' − σ) d: first order (DDIM with η = 0 when x is scaled by √ᾱ)."""

    stages: ClassVar[int] = 1
    multistep: ClassVar[bool] = False

    def start(self, sigmas: Sequence[float]) -> None:
        """No history."""

    def step(
        self, denoise: CountedDenoiser, x: Tensor, x_0: Tensor, sigma: float, sigma_next: float, history: None = None
    ) -> Tensor:
        """One Euler step."""
        return _euler_step(x, x_0, sigma, sigma_next)


@dataclass(frozen=True)
class Heun:
    """An Euler step, repeated with the mean of the slopes at both ends (Karras et al. 2022, algorithm 1).

    Second order, at two evaluations a step; the step to σ = 0, where d is not defined, is Euler's.
    With :class:`Churn` it is their algorithm 2.
    """

    stages: ClassVar[int] = 2
    multistep: ClassVar[bool] = False

    def start(self, sigmas: Sequence[float]) -> None:
        """No history."""

    def step(
        self, denoise: CountedDenoiser, x: Tensor, x_0: Tensor, sigma: float, sigma_next: float, history: None = None
    ) -> Tensor:
        """One step of Heun's second-order method."""
        x_euler = _euler_step(x, x_0, sigma, sigma_next)
        if sigma_next == 0:
            return x_euler
        slope = (x - x_0) / sigma
        slope_next = (x_euler - denoise(x_euler, sigma_next)) / sigma_next
        return x + (sigma_next - sigma) * (slope + slope_next) / 2


def _orders(highest: int, sigmas: Sequence[float]) -> tuple[int, ...]:
    """1, 2, … up to the highest; down again to 1 for the step to σ = 0."""
    steps = len(sigmas) - 1
    left = [steps - k if sigmas[-1] == 0 else highest for k in range(steps)]
    return tuple(min(highest, k + 1, left[k]) for k in range(steps))


@dataclass(frozen=True)
class DPMSolverPP2M:
    r"""DPM-Solver++(2M): Lu et al. 2022, arXiv:2211.01095, algorithm 2.

    Equation ``eq-exponential-integrator`` of ``book/notation.md``.

    D is extrapolated linearly in λ from the previous level to the middle of the step,
    :math:`\tilde D = D_k + \frac{h_k}{2 h_{k-1}}(D_k - D_{k-1})`, and taken as constant. The first step, and the one to
    σ = 0, use :math:`D_k` itself.
    """

    stages: ClassVar[int] = 1
    multistep: ClassVar[bool] = True

    def start(self, sigmas: Sequence[float]) -> History:
        """An empty history."""
        return History(_orders(2, sigmas))

    def step(
        self, denoise: CountedDenoiser, x: Tensor, x_0: Tensor, sigma: float, sigma_next: float, history: History
    ) -> Tensor:
        """One step of order 2, or 1 at the ends."""
        guess = x_0
        if history.order == 2:
            h, h_before = math.log(sigma / sigma_next), math.log(history.sigmas[-1] / sigma)
            guess = x_0 + h / (2 * h_before) * (x_0 - history.values[-1])
        history.remember(sigma, x_0)
        return _euler_step(x, guess, sigma, sigma_next)


# Adams–Bashforth: weights of the slopes, newest first, for each order.
_ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclass(frozen=True)
class IPNDM:
    r"""Adams–Bashforth of fourth order on d, started with orders 1, 2, 3 (iPNDM: Zhang & Chen 2022, arXiv:2204.13902).

    :math:`x' = x + (\sigma'-\sigma)\,\frac{1}{24}(55 d_k - 59 d_{k-1} + 37 d_{k-2} - 9 d_{k-3})`. These weights are
    right for evenly spaced σ, and are used on any grid: "fourth order" names the formula. On an uneven grid, and with
    an Euler step at the start, the error falls with the second power; at few steps it is among the best all the same
    (Zhou et al. 2024, arXiv:2312.00094, compare).
    """

    stages: ClassVar[int] = 1
    multistep: ClassVar[bool] = True

    def start(self, sigmas: Sequence[float]) -> History:
        """An empty history."""
        return History(tuple(min(4, k + 1) for k in range(len(sigmas) - 1)))

    def step(
        self, denoise: CountedDenoiser, x: Tensor, x_0: Tensor, sigma: float, sigma_next: float, history: History
    ) -> Tensor:
        """One step with the slopes of up to four levels."""
        weights = _ADAMS_BASHFORTH[history.order]
        history.remember(sigma, (x - x_0) / sigma)
        slope = sum(w * d for w, d in zip(weights, reversed(history.values), strict=False))
        return x + (sigma_next - sigma) * slope


Variant = Literal["bh1", "bh2"]


@dataclass(frozen=True)
class UniPC:
    r"""UniPC of order 3, data prediction, B(h) version (Zhao et al. 2023, arXiv:2302.04867).

    Equation ``eq-exponential-integrator`` of ``book/notation.md``.

    A step predicts x' from the D of up to three levels. The evaluation at x' then serves twice: it is the first of the
    next step, and it corrects x' (one order higher) before that step goes on from there. So each step costs one
    evaluation, and the states of a trajectory are the predicted ones, at which D was asked.

    Predictor and corrector of order p are both

    .. math:: x' = e^{-h}x + (1-e^{-h})D_k - B(h)\sum_m \rho_m \frac{D_m - D_k}{r_m},
              \qquad \sum_m r_m^{i-1}\rho_m = \frac{i!\,z\,\varphi_{i+1}(z)}{B(h)},\ z = -h,

    with :math:`r_m = (\lambda_m-\lambda_k)/h` of the earlier levels and, in the corrector, r = 1 of the new one;
    :math:`\varphi_{j+1}(z) = (\varphi_j(z) - 1/j!)/z,\ \varphi_0 = e^z`. That is the integral of the polynomial through
    these D. For a single unknown, :math:`\rho = 1/2` is taken instead, as by the authors: only there does B(h) matter.

    Attributes:
        variant: B(h): ``"bh1"`` is −h, ``"bh2"`` is :math:`e^{-h} - 1`.

    Raises:
        ValueError: For another variant.
    """

    variant: Variant = "bh2"
    stages: ClassVar[int] = 1
    multistep: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ValueError(f"expected variant 'bh1' or 'bh2', got {self.variant!r}")

    def start(self, sigmas: Sequence[float]) -> History:
        """An empty history."""
        return History(_orders(3, sigmas))

    def step(
        self, denoise: CountedDenoiser, x: Tensor, x_0: Tensor, sigma: float, sigma_next: float, history: History
    ) -> Tensor:
        """Correct x with its own D, then predict the next."""
        if sigma_next == 0:
            return x_0
        order = history.order
        if history.steps > 0:
            used = history.orders[history.steps - 1]
            x = self._update(history.x, history.sigmas[-used:], history.values[-used:], sigma, x_0)
        history.remember(sigma, x_0)
        history.x = x
        return self._update(x, history.sigmas[-order:], history.values[-order:], sigma_next, None)

    def _update(
        self, x: Tensor, sigmas: Sequence[float], guesses: Sequence[Tensor], sigma_next: float, new: Tensor | None
    ) -> Tensor:
        """From x at the last of ``sigmas`` to ``sigma_next``; the corrector if the ``new`` D there is known."""
        h = math.log(sigmas[-1] / sigma_next)
        ratios = [math.log(sigmas[-1] / s) / h for s in sigmas[:-1]]
        differences = [(guess - guesses[-1]) / r for guess, r in zip(guesses[:-1], ratios, strict=True)]
        if new is not None:
            ratios.append(1.0)
            differences.append(new - guesses[-1])
        base = -h if self.variant == "bh1" else math.expm1(-h)
        x_next = _euler_step(x, guesses[-1], sigmas[-1], sigma_next)
        for rho, difference in zip(_unipc_weights(ratios, h, base), differences, strict=True):
            x_next = x_next - base * rho * difference
        return x_next


def _unipc_weights(ratios: Sequence[float], h: float, base: float) -> list[float]:
    """ρ of :class:`UniPC`, one for each ratio r."""
    if len(ratios) <= 1:
        return [0.5] * len(ratios)
    z, phi, right = -h, math.expm1(-h) / -h, []  # phi is φ_1
    for i in range(1, len(ratios) + 1):
        phi = (phi - 1 / math.factorial(i)) / z  # φ_{i+1}
        right.append(math.factorial(i) * z * phi / base)
    r = torch.tensor(ratios, dtype=torch.float64)
    powers = torch.stack([r**i for i in range(len(ratios))])
    return torch.linalg.solve(powers, torch.tensor(right, dtype=torch.float64)).tolist()


@dataclass(frozen=True)
class Churn:
    r"""Fresh noise before each step, which the step then has to remove too (Karras et al. 2022, algorithm 2, lines
    4–6).

    σ is raised to :math:`\hat\sigma = (1+\gamma)\sigma` with :math:`\gamma = \min(S_{churn}/N, \sqrt2 - 1)` for N
    steps, and x gets noise of variance :math:`\hat\sigma^2 - \sigma^2`. That forgets errors made before, and adds some
    of its own.

    Attributes:
        amount: :math:`S_{churn}`, at least 0.
        sigma_min: Only from this σ,
        sigma_max: up to this one.
        noise: :math:`S_{noise}`, the standard deviation of the fresh noise; slightly above 1 makes up for lost detail.

    Raises:
        ValueError: For a negative amount, levels that are not 0 <= sigma_min <= sigma_max, or noise that is not
            positive.
    """

    amount: float
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.amount < math.inf:
            raise ValueError(f"expected a finite amount of at least 0, got {self.amount}")
        if not 0 <= self.sigma_min <= self.sigma_max:
            raise ValueError(f"expected 0 <= sigma_min <= sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if not 0 < self.noise < math.inf:
            raise ValueError(f"expected noise > 0, got {self.noise}")

    def raised(self, sigma: float, n_steps: int) -> float:
        """σ̂, in a run of ``n_steps``."""
        if not self.sigma_min <= sigma <= self.sigma_max:
            return sigma
        return sigma * (1 + min(self.amount / n_steps, math.sqrt(2) - 1))

    def __call__(
        self, x: Tensor, sigma: float, n_steps: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, float]:
        """x at σ → x̂ at σ̂, and σ̂."""
        sigma_hat = self.raised(sigma, n_steps)
        if sigma_hat == sigma:
            return x, sigma
        fresh = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        return x + math.sqrt(sigma_hat**2 - sigma**2) * self.noise * fresh, sigma_hat


@dataclass(frozen=True)
class ContinuousTrajectory:
    """The states of one run of :func:`sample_ode`, S steps.

    Attributes:
        x: Shape (S + 1, B, …): x_T first, the samples last.
        x0: Shape (S, B, …): the guess D of the clean image at the start of each step.
        sigmas: Shape (S + 1,), float64: the noise levels of ``x``.
        evaluations: How often the denoiser was asked.
    """

    x: Tensor
    x0: Tensor
    sigmas: Tensor
    evaluations: int

    @property
    def samples(self) -> Tensor:
        """The final state, shape (B, …)."""
        return self.x[-1]


def evaluations(solver: Solver, n_steps: int) -> int:
    """How often a run of ``n_steps`` steps that ends in σ = 0 asks the denoiser.

    Raises:
        ValueError: For fewer than one step.

    Example:
        >>> evaluations(Euler(), 10), evaluations(Heun(), 10)
        (10, 19)
    """
    if n_steps < 1:
        raise ValueError(f"expected at least one step, got {n_steps}")
    return solver.stages * (n_steps - 1) + 1


def steps_for(solver: Solver, budget: int) -> int:
    """The most steps, the last one to σ = 0, that ask the denoiser at most ``budget`` times.

    So ``append_zero(karras_sigmas(steps_for(solver, 10)))`` is the grid for ten evaluations; Heun then takes nine of
    them.

    Raises:
        ValueError: For fewer than one evaluation.

    Example:
        >>> steps_for(UniPC(), 10), steps_for(Heun(), 10), steps_for(Heun(), 11)
        (10, 5, 6)
    """
    if budget < 1:
        raise ValueError(f"expected at least one evaluation, got {budget}")
    return (budget - 1) // solver.stages + 1


def checked_grid(sigmas: Tensor | Sequence[float], partial: bool) -> list[float]:
    """Noise levels as numbers.

    Raises:
        ValueError: If they are not at least two strictly decreasing finite numbers that end in 0, or, if ``partial``,
            at 0 or above.
    """
    grid = torch.as_tensor(sigmas, dtype=torch.float64)
    if grid.ndim != 1 or len(grid) < 2 or not bool(grid.isfinite().all()) or bool((grid.diff() >= 0).any()):
        raise ValueError(f"expected at least two strictly decreasing noise levels, got {grid.tolist()}")
    if not partial and grid[-1] != 0:
        raise ValueError(
            f"expected noise levels that end in 0, got {float(grid[-1]):.4g}: use append_zero, or partial=True"
        )
    if grid[-1] < 0:
        raise ValueError(f"expected noise levels of at least 0, got {float(grid[-1]):.4g}")
    return grid.tolist()


def check_images(x: Tensor, label: Tensor | None) -> None:
    """Raise a ValueError for images that are no floating-point batch, or labels that are not one integer for each."""
    if not x.is_floating_point() or x.ndim < 1:
        raise ValueError(f"expected floating-point images of shape (B, ...), got {x.dtype} of shape {tuple(x.shape)}")
    if label is not None and (label.shape != x.shape[:1] or label.dtype != torch.int64):
        raise ValueError(f"expected int64 labels of shape ({len(x)},), got {label.dtype} of {tuple(label.shape)}")


def state_of(x: Tensor) -> Tensor:
    """x as a solver's state: float64, or float32 on a device that has no float64."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


@torch.no_grad()
def sample_ode(
    denoiser: Denoiser,
    solver: Solver,
    x_T: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    label: Tensor | None = None,
    churn: Churn | None = None,
    generator: torch.Generator | None = None,
    partial: bool = False,
    return_trajectory: bool = False,
    progress: bool = False,
) -> Tensor | ContinuousTrajectory:
    """Solve the probability-flow ODE from noise to data.

    Equation ``eq-probability-flow`` of ``book/notation.md``.

    Args:
        denoiser: ``denoiser(x, sigma)`` or, with labels, ``denoiser(x, sigma, label)``; called in the dtype of ``x_T``,
            so give a network's noise in the network's dtype. A module is put into evaluation mode meanwhile.
        solver: For example ``UniPC()``.
        x_T: Where to start, shape (B, …): for samples, standard normal noise **times** ``sigmas[0]``.
        sigmas: Noise levels, strictly decreasing, the last one 0: ``append_zero(karras_sigmas(10))`` makes ten steps.
        label: Class numbers (B,), int64, for a denoiser of classes.
        churn: Add fresh noise before each step; for solvers of one step, whose past does not matter.
        generator: Source of that noise, on the CPU.
        partial: Allow a grid that stops above 0, to leave some noise in the images.
        return_trajectory: Whether to keep all states.
        progress: Whether to show a progress bar (the environment variable ``TQDM_DISABLE=1`` hides it).

    Returns:
        Samples of the shape and dtype of ``x_T``, or the whole :class:`ContinuousTrajectory` with the number of
        evaluations.

    Raises:
        ValueError: For a grid, images or labels that do not fit, churn with a multistep solver, or a denoiser whose
            answer has another shape, or is not finite.

    Example:
        >>> def of_a_point(x, sigma):  # the data is the point 3
        ...     return torch.full_like(x, 3.0)
        >>> sample_ode(of_a_point, Heun(), torch.tensor([[-80.0], [80.0]]), [80.0, 1.0, 0.0])
        tensor([[3.],
                [3.]])
    """
    grid = checked_grid(sigmas, partial)
    check_images(x_T, label)
    if churn is not None and solver.multistep:
        raise ValueError(f"expected a solver of one step with churn, got {solver}: noise makes its history wrong")
    denoise, x, history = CountedDenoiser(denoiser, x_T.dtype, label), state_of(x_T), solver.start(grid)
    states, guesses, steps = [x], [], list(pairwise(grid))
    with evaluating(denoiser):
        for sigma, sigma_next in tqdm(steps, desc="sampling") if progress else steps:
            if churn is not None:
                x, sigma = churn(x, sigma, len(steps), generator)
            x_0 = denoise(x, sigma)
            x = solver.step(denoise, x, x_0, sigma, sigma_next, history)
            if return_trajectory:
                states.append(x)
                guesses.append(x_0)
    if not return_trajectory:
        return x.to(x_T.dtype)
    kept = (torch.stack(values).to(x_T.dtype) for values in (states, guesses))
    return ContinuousTrajectory(*kept, torch.tensor(grid, dtype=torch.float64), denoise.count)
