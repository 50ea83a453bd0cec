r"""Annealed importance sampling: log Z in any number of dimensions, between two bounds.

Between a Gaussian base :math:`E_0 = -\log p_0` and the target lie the energies
:math:`E_\beta = (1-\beta)E_0 + \beta E/T`. A chain climbs from β = 0 to 1 and gathers

.. math:: \log w = \sum_k (\beta_k - \beta_{k-1})\,(E_0 - E/T)(x_{k-1}),

each x_k coming from x_{k−1} by a transition that leaves :math:`e^{-E_{\beta_k}}` invariant (Neal 2001,
doi:10.1023/A:1008923215028). Then

.. math:: E[w] = Z \quad\Rightarrow\quad E[\log w] \le E\Big[\log\tfrac1n\sum_i w_i\Big] \le \log Z.

A chain that starts from an *exact* sample of the target and walks down gives 1/w without bias for 1/Z, and so an upper
bound: together they enclose log Z (bidirectional Monte Carlo; Grosse, Ghahramani & Adams 2015, arXiv:1511.02543).

Transitions: :func:`~helpers.langevin.mala` and :func:`~helpers.langevin.hmc` are invariant and reversible. Plain
Langevin steps are neither, but there is no need to reject anything: the weight takes in, at each step, the *logarithm
of MALA's acceptance ratio*,

.. math:: \log a(x\to x') = E_\beta(x) - E_\beta(x') + \log q(x\,|\,x') - \log q(x'\,|\,x),

and E[w] = Z holds for every step size (Thin et al. 2021, "Monte Carlo variational auto-encoders", arXiv:2106.15921).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..energy import Energy, energy_and_gradient, frozen
from ..langevin import hmc, log_proposal, mala
from .partition import parameter_like

__all__ = ["AISEstimate", "AISSettings", "ais_log_z", "ais_log_z_reverse"]


@dataclass(frozen=True)
class AISSettings:
    """How annealed importance sampling climbs.

    Attributes:
        n_levels: K, intervals from β = 0 to β = 1: more of them, and the bounds close.
        n_steps: Transitions at each level.
        step_size: Of the transitions: ε, or the leapfrog step δ of ``"hmc"``.
        transition: ``"langevin"`` (never rejects, corrects the weight), ``"mala"`` or ``"hmc"``.
        n_leapfrog: Leapfrog steps of ``"hmc"``.
        base_std: Standard deviation of the Gaussian base, which should be at least as wide as the target.

    Raises:
        ValueError: For numbers that make no sense.
    """

    n_levels: int = 100
    n_steps: int = 1
    step_size: float = 0.1
    transition: Literal["langevin", "mala", "hmc"] = "mala"
    n_leapfrog: int = 5
    base_std: float = 1.0

    def __post_init__(self) -> None:
        if min(self.n_levels, self.n_steps, self.n_leapfrog) < 1:
            raise ValueError("expected n_levels, n_steps and n_leapfrog >= 1")
        if not (0 < self.step_size < math.inf and 0 < self.base_std < math.inf):
            raise ValueError(f"expected step_size and base_std > 0, got {self.step_size} and {self.base_std}")
        if self.transition not in ("langevin", "mala", "hmc"):
            raise ValueError(f"expected transition 'langevin', 'mala' or 'hmc', got {self.transition!r}")

    @property
    def betas(self) -> list[float]:
        """β_0 = 0, …, β_K = 1."""
        return [k / self.n_levels for k in range(self.n_levels + 1)]


@dataclass(frozen=True)
class AISEstimate:
    """An estimate of log Z by annealed importance sampling, and how far it is to be trusted.

    Attributes:
        log_weights: log w of each chain, shape (n,), float64.
        bound: ``"lower"`` for chains that climbed from the base, ``"upper"`` for chains that walked down.
        x: Where chains ended, shape (n, …). After a climb, weighted by w, they are samples of the target.
        acceptance: Mean share of accepted proposals; for ``"langevin"``, what MALA's would have been.
    """

    log_weights: Tensor
    bound: Literal["lower", "upper"]
    x: Tensor
    acceptance: float

    @property
    def _signed(self) -> Tensor:
        """log of what is averaged: w for the climb, 1/w on the way down."""
        return self.log_weights if self.bound == "lower" else -self.log_weights

    @property
    def log_z(self) -> float:
        """log of the mean of w, or −log of the mean of 1/w: bounds log Z in expectation, and closes in as n grows."""
        value = torch.logsumexp(self._signed, dim=0).item() - math.log(len(self.log_weights))
        return value if self.bound == "lower" else -value

    @property
    def standard_error(self) -> float:
        """Of :attr:`log_z`, by the delta method: std(w)/(mean(w) √n). Too small where few weights dominate."""
        weights = (self._signed - self._signed.max()).exp()
        return (weights.std() / weights.mean()).item() / math.sqrt(len(weights))

    @property
    def mean_log_weight(self) -> float:
        """The mean of log w: a looser bound, whose standard error can be trusted even where weights scatter."""
        return self.log_weights.mean().item()

    @property
    def mean_standard_error(self) -> float:
        """Of :attr:`mean_log_weight`."""
        return self.log_weights.std().item() / math.sqrt(len(self.log_weights))

    @property
    def effective_sample_size(self) -> float:
        """(Σw)²/Σw², from 1 (one chain decides) to n (all agree)."""
        shares = self._signed.softmax(dim=0)
        return 1 / shares.square().sum().item()


def ais_log_z(
    energy: Energy,
    shape: tuple[int, ...],
    n_chains: int = 256,
    settings: AISSettings | None = None,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> AISEstimate:
    r"""log ∫ exp(−E/T) from chains that climb from a Gaussian to the target: in expectation a *lower* bound.

    Equation ``eq-ais`` of ``book/notation.md``.

    Args:
        energy: ``energy(x) -> (B,)``; asked as in :func:`log_partition_quadrature`.
        shape: Of one x, such as ``(2,)``.
        n_chains: n, all moved at once.
        settings: How they climb.
        temperature: T > 0.
        generator: Source of the randomness, on the CPU.

    Returns:
        The estimate; its ``log_z`` is close below log Z where the weights agree, and may be far below where chains
        have missed modes.

    Raises:
        ValueError: For fewer than two chains, T that is not positive, or energies that are not finite on the way.

    Example:
        >>> estimate = ais_log_z(lambda x: x.square().sum(1) / 2 + 3, (2,), generator=torch.Generator().manual_seed(0))
        >>> round(estimate.log_z - (math.log(2 * math.pi) - 3), 9) + 0.0  # the base itself: no scatter
        0.0
    """
    settings = settings or AISSettings()
    _check_ais(n_chains, temperature)
    like = parameter_like(energy)
    x = torch.randn((n_chains, *shape), generator=generator, dtype=like.dtype).to(like.device) * settings.base_std
    betas = settings.betas
    log_weights = torch.zeros(n_chains, dtype=torch.float64)
    acceptances = []
    with frozen(energy):
        for before, after in pairwise(betas):
            log_weights += (after - before) * _gap(energy, x, settings, temperature)
            if after < 1:
                x, correction, acceptance = _transition(energy, x, after, settings, temperature, generator)
                log_weights += correction
                acceptances.append(acceptance)
    return AISEstimate(log_weights, "lower", x, _mean(acceptances))


def ais_log_z_reverse(
    energy: Energy,
    x: Tensor,
    settings: AISSettings | None = None,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> AISEstimate:
    r"""log ∫ exp(−E/T) from *exact* samples of the target that walk down to the Gaussian: an *upper* bound.

    With approximate samples, such as a chain's, there is no bound in either direction.

    Args:
        energy: As in :func:`ais_log_z`.
        x: Independent samples of exp(−E/T)/Z, shape (n, …).
        settings: Those of the climb, for bounds that belong together.
        temperature: T > 0.
        generator: Source of the randomness, on the CPU.

    Returns:
        The estimate; its ``log_z`` is in expectation above log Z.

    Raises:
        ValueError: As :func:`ais_log_z`.
    """
    settings = settings or AISSettings()
    _check_ais(len(x), temperature)
    x = x.detach().to(parameter_like(energy))
    betas = settings.betas
    log_weights = torch.zeros(len(x), dtype=torch.float64)
    acceptances = []
    with frozen(energy):
        for before, after in reversed(list(pairwise(betas))):
            if after < 1:
                x, correction, acceptance = _transition(energy, x, after, settings, temperature, generator)
                log_weights -= correction
                acceptances.append(acceptance)
            log_weights += (after - before) * _gap(energy, x, settings, temperature)
    return AISEstimate(log_weights, "upper", x, _mean(acceptances))


def _check_ais(n_chains: int, temperature: float) -> None:
    if n_chains < 2:
        raise ValueError(f"expected at least two chains, got {n_chains}")
    if not temperature > 0:
        raise ValueError(f"expected temperature > 0, got {temperature}")


def _base_energy(x: Tensor, std: float) -> Tensor:
    """−log N(x; 0, std² I), normalised, shape (B,)."""
    constant = x[0].numel() * (math.log(std) + math.log(2 * math.pi) / 2)
    return x.flatten(1).square().sum(1) / (2 * std**2) + constant


@torch.no_grad()
def _gap(energy: Energy, x: Tensor, settings: AISSettings, temperature: float) -> Tensor:
    """E_0 − E/T at x, shape (B,), float64: what one unit of β gains in weight."""
    values = energy(x)
    if values.shape != x.shape[:1]:
        raise ValueError(f"expected energies of shape ({len(x)},), got {tuple(values.shape)}")
    gap = (_base_energy(x.double(), settings.base_std) - values.double() / temperature).cpu()
    if not bool(gap.isfinite().all()):
        raise ValueError("expected finite energies, got one that is not: use a smaller step_size or a narrower base")
    return gap


def _transition(
    energy: Energy,
    x: Tensor,
    beta: float,
    settings: AISSettings,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor | float, float]:
    """Move x by what leaves exp(−E_β) invariant. Returns: x; what log w takes in (0 if that is exact); acceptance."""

    def bridge(x: Tensor) -> Tensor:
        return (1 - beta) * _base_energy(x, settings.base_std) + beta / temperature * energy(x)

    if settings.transition == "langevin":
        return _langevin_with_weights(bridge, x, settings, generator)
    if settings.transition == "mala":
        chains = mala(bridge, x, settings.n_steps, settings.step_size, generator=generator)
    else:
        chains = hmc(bridge, x, settings.n_steps, settings.step_size, settings.n_leapfrog, generator=generator)
    return chains.x, 0.0, chains.acceptance.mean().item()


def _langevin_with_weights(
    energy: Energy, x: Tensor, settings: AISSettings, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, float]:
    """Langevin steps that are never rejected, and the sum of their log acceptance ratios, shape (B,)."""
    total = torch.zeros(len(x), dtype=torch.float64)
    acceptance = 0.0
    value, gradient = energy_and_gradient(energy, x)
    for _ in range(settings.n_steps):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        x_new = x - settings.step_size / 2 * gradient + math.sqrt(settings.step_size) * noise
        value_new, gradient_new = energy_and_gradient(energy, x_new)
        there = log_proposal(x_new, x, gradient, settings.step_size)
        back = log_proposal(x, x_new, gradient_new, settings.step_size)
        log_ratio = (value - value_new + back - there).double().cpu()
        total += log_ratio
        acceptance += log_ratio.exp().clamp(max=1).mean().item() / settings.n_steps
        x, value, gradient = x_new, value_new, gradient_new
    return x, total, acceptance


def _mean(numbers: list[float]) -> float:
    """1 for none: with one level nothing is proposed."""
    return sum(numbers) / len(numbers) if numbers else 1.0
