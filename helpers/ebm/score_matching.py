r"""Training by the score: no samples from the model, and no partition function, because
:math:`\nabla_x \log p = -\nabla_x E` does not contain it (Hyvärinen 2005, JMLR 6:695).

**Denoising** (Vincent 2011, doi:10.1162/NECO_a_00142). Noise the data, :math:`\tilde x = x + \sigma\varepsilon`, and
ask for the score of the noising kernel:

.. math:: L = \tfrac12 E\Big\|s(\tilde x, \sigma) + \frac{\tilde x - x}{\sigma^2}\Big\|^2 .

Its minimiser is the score of the *noised* density; its minimum is not 0. For data N(0, s² I) in d dimensions:
:math:`s^*(\tilde x) = -\tilde x/(s^2+\sigma^2)` and :math:`L^* = d\,s^2 / (2\sigma^2(s^2+\sigma^2))`.

**Many noise levels.** The losses are of size 1/σ², so they are weighted. σ² makes them comparable (Song & Ermon 2019,
arXiv:1907.05600, eq. 6). :func:`edm_weight` makes the loss that of an EDM denoiser :math:`D = \tilde x + \sigma^2 s`,
:math:`\|D - x\|^2/c_{out}^2` (Karras et al. 2022, arXiv:2206.00364).

**Sliced** (Song et al. 2019, arXiv:1905.07088). Without noise, integration by parts gives

.. math:: J = E\Big[\operatorname{tr}\nabla s(x) + \tfrac12\|s(x)\|^2\Big],

which is the squared distance to the data's score up to a constant; the trace is estimated by :math:`v^\top\nabla s\,v`
with random signs v (Hutchinson 1990, doi:10.1080/03610919008812866). On N(0, s² I), :math:`s = -x/s^2` gives
:math:`J^* = -d/(2s^2)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..diffusion import stratified_sigmas
from ..energy import Energy
from ..energy import score as score_of
from ..schedules import expand_like

__all__ = [
    "conditional_score",
    "denoising_score_matching_loss",
    "edm_score_matching_loss",
    "edm_weight",
    "sliced_score_matching_loss",
]

ConditionalScore = Callable[[Tensor, Tensor], Tensor]
"""``s(x, sigma)``: x (B, …) and σ (B,) → (B, …)."""


def conditional_score(energy: Energy) -> ConditionalScore:
    """The score −∇ₓE(x, σ) of a noise-conditional energy, differentiable in the parameters: what the losses here take.

    Args:
        energy: ``energy(x, sigma) -> (B,)``. Wrap an energy that knows of no σ: ``lambda x, sigma: energy(x)``.

    Returns:
        ``s(x, sigma)``, of the shape of x.
    """
    return lambda x, sigma: score_of(energy, x, sigma, create_graph=True)


def edm_weight(sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    r"""The weight :math:`\sigma^2(\sigma^2+\sigma_d^2)/\sigma_d^2` with which denoising score matching is EDM's loss.

    It is σ⁴/c_out²: with D = x̃ + σ²s, the error of D is σ² times that of s.

    Args:
        sigma: Noise levels, any shape.
        sigma_data: σ_d, the standard deviation of the data.

    Returns:
        Shape of ``sigma``.
    """
    return sigma**2 * (sigma**2 + sigma_data**2) / sigma_data**2


def denoising_score_matching_loss(
    score: ConditionalScore,
    x: Tensor,
    sigma: Tensor | float,
    generator: torch.Generator | None = None,
    *,
    weight: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r""":math:`\tfrac12 E\,w(\sigma)\|s(\tilde x, \sigma) + (\tilde x - x)/\sigma^2\|^2`, summed over dimensions.

    Equation ``eq-denoising-score-matching`` of ``book/notation.md``.

    Args:
        score: ``s(x, sigma)``: a network, or :func:`conditional_score` of an energy.
        x: Data (B, …).
        sigma: Noise levels > 0, shape (B,), or one for all.
        generator: Source of the noise, on the CPU.
        weight: ``w(sigma)``; 1 if not given. ``torch.square`` makes levels comparable.

    Returns:
        A scalar: the mean over the batch. Its minimum is positive.

    Raises:
        ValueError: If a noise level is not positive and finite, or the score is not of the shape of x.
    """
    sigma = _levels(sigma, x)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    spread = expand_like(sigma, x)
    # Of order 1 at every σ: the error in units of the noise, σ s + ε, whose square is σ² times the one above.
    error = spread * _checked(score(x + spread * noise, sigma), x) + noise
    per_example = error.square().flatten(1).sum(1) / (2 * sigma**2)
    return (per_example if weight is None else weight(sigma) * per_example).mean()


def edm_score_matching_loss(
    energy: Energy,
    x: Tensor,
    generator: torch.Generator | None = None,
    *,
    sigma_data: float = 0.5,
    sigma: Tensor | None = None,
) -> Tensor:
    r"""The loss of :func:`helpers.diffusion.edm_loss` for a noise-conditional energy, whose denoiser is
    :math:`D(\tilde x;\sigma) = \tilde x - \sigma^2\nabla E(\tilde x, \sigma)`.

    Any energy will do; for :class:`helpers.energy.InnerProductEnergy` it is ``edm_loss`` of its ``denoiser``, which is
    the cheaper way. It can be given to ``train`` as it is, and draws the same levels and noise as ``edm_loss`` from the
    same generator, so that a network and an energy can be compared step by step.

    Args:
        energy: ``energy(x, sigma) -> (B,)``.
        x: Clean data (B, …).
        generator: Source of noise levels and noise, on the CPU.
        sigma_data: σ_d, the standard deviation of the data.
        sigma: Noise levels (B,) instead of random ones.

    Returns:
        A scalar, per element: below 1 for an energy that beats the best Gaussian guess.

    Raises:
        ValueError: As :func:`denoising_score_matching_loss`.
    """
    if sigma is None:
        sigma = stratified_sigmas(len(x), generator)
    loss = denoising_score_matching_loss(
        conditional_score(energy), x, sigma, generator, weight=lambda level: edm_weight(level, sigma_data)
    )
    return 2 * loss / x[0].numel()


def sliced_score_matching_loss(
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    generator: torch.Generator | None = None,
    *,
    n_projections: int = 1,
) -> Tensor:
    r""":math:`E[v^\top\nabla s(x)\,v + \tfrac12\|s(x)\|^2]`: Song et al. 2019, with reduced variance (eq. 8).

    Equation ``eq-sliced-score-matching`` of ``book/notation.md``.

    One more backward pass for each projection, instead of one for each dimension. Signs ±1 have the least variance of
    all v with independent entries: the diagonal of ∇s contributes none.

    Args:
        score: ``s(x)``, differentiable in its parameters: a network, or ``lambda x: helpers.energy.score(energy, x,
            create_graph=True)``. No unit of it may look at other examples of the batch.
        x: Data (B, …).
        generator: Source of the projections, on the CPU.
        n_projections: Vectors v an example.

    Returns:
        A scalar, the mean over the batch; it may be negative, and its minimum is −½E‖∇log p‖².

    Raises:
        ValueError: If ``n_projections`` is below 1, or the score is not of the shape of x.
    """
    if n_projections < 1:
        raise ValueError(f"expected n_projections >= 1, got {n_projections}")
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        s = _checked(score(x), x)
        trace = torch.zeros((), dtype=x.dtype, device=x.device)
        for _ in range(n_projections):
            v = torch.randint(2, x.shape, generator=generator).to(x) * 2 - 1
            (product,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)
            trace = trace + (product * v).sum() / (n_projections * len(x))
    return trace + s.square().sum() / (2 * len(x))


def _levels(sigma: Tensor | float, x: Tensor) -> Tensor:
    """One positive noise level an example, shape (B,)."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    sigma = sigma.expand(len(x)) if sigma.ndim == 0 else sigma
    if sigma.shape != x.shape[:1]:
        raise ValueError(f"expected one noise level per example, shape ({len(x)},), got {tuple(sigma.shape)}")
    if not bool(((sigma > 0) & (sigma < float("inf"))).all()):
        raise ValueError(f"expected noise levels > 0 and finite, got {sigma.min():.3g} to {sigma.max():.3g}")
    return sigma


def _checked(answer: Tensor, x: Tensor) -> Tensor:
    if answer.shape != x.shape:
        raise ValueError(f"expected a score of the shape of x, {tuple(x.shape)}, got {tuple(answer.shape)}")
    return answer
