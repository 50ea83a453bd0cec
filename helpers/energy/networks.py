r"""Energies made of networks that were built for something else.

**A denoiser as an energy** (:class:`InnerProductEnergy`). Let :math:`E_\sigma = -\log p_\sigma` be the energy of noisy
data :math:`x = x_0 + \sigma\varepsilon`. Tweedie's formula makes the best denoiser of it,

.. math:: D(x;\sigma) = x + \sigma^2\nabla\log p_\sigma(x) = x - \sigma^2\nabla_x E_\sigma(x).

We want D to be EDM's :math:`c_{skip}x + c_{out}F(u)`, with :math:`u = c_{in}x = x/\sqrt{\sigma^2+\sigma_d^2}`, because
input and target of F then have variance 1 at every σ (Karras et al. 2022, arXiv:2206.00364). Solve for the gradient:

.. math::

    \nabla_x E_\sigma = \frac{(1-c_{skip})\,x - c_{out}F(u)}{\sigma^2}
    = \frac{1}{\sqrt{\sigma^2+\sigma_d^2}}\left(u - \frac{\sigma_d}{\sigma} F(u)\right),

and the factor in front is :math:`du/dx`. So if F is the gradient of a potential, :math:`F = \nabla_u\phi`, then

.. math:: E_\sigma(x) = \tfrac12\|u\|^2 - \frac{\sigma_d}{\sigma}\,\phi(u, \sigma).

A network N gives vectors, and they become a potential as an inner product,

.. math:: \phi(u,\sigma) = \tfrac12\langle u, N(u,\sigma)\rangle,
          \qquad F = \nabla_u\phi = \tfrac12\left(N + J_N^\top u\right).

Why ½: if N is the gradient of a potential that is homogeneous of degree k + 1, then :math:`J_N^\top u = kN` (Euler) and
F = N·(k + 1)/2. It is N itself for k = 1: for linear N with a symmetric matrix the energy is *exactly* the denoiser
that EDM would make of N, and for Gaussian data that is the best one there is. A general N is neither linear nor a
gradient, and F then is another field than N; what is always true is that F is a gradient, that its target has
variance 1, and that a network that answers 0 (its last layer is zero when training starts) has the loss 1 at every σ.

Salimans & Ho (2021, "Should EBMs model the energy or the score?") train energies made of denoisers; Du et al. (2023,
"Reduce, reuse, recycle", arXiv:2302.11552) sample from and compose them by MCMC.

**A classifier as an energy** (:class:`ClassifierEnergy`; Grathwohl et al. 2020, "Your classifier is secretly an energy
based model and you should treat it like one", arXiv:1912.03263). Adding a number to all logits changes no class
probability; that freedom can hold a density: :math:`E(x, y) = -f_y(x)`, and, summed over classes,
:math:`E(x) = -\log\sum_y e^{f_y(x)}`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..diffusion import EDMPrecond
from ..schedules import expand_like
from .gradients import differentiable

__all__ = ["ClassifierEnergy", "GradientField", "InnerProductEnergy"]


class GradientField(nn.Module):
    r"""F(u, c) = ∇_u ½⟨u, N(u, c)⟩: a network turned into a field that is a gradient, callable like the network.

    Args:
        network: ``N(u, c_noise)``, or ``N(u, c_noise, label)``, with values of the shape of u.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def potential(self, u: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """½⟨u, N(u, c_noise)⟩: u (B, …), c_noise (B,) → (B,), in the dtype of ``u``.

        Raises:
            ValueError: If the network's answer has another shape than ``u``.
        """
        labels = () if label is None else (label,)
        answer = self.network(u, c_noise, *labels)
        if answer.shape != u.shape:
            raise ValueError(f"expected the network's answer of shape {tuple(u.shape)}, got {tuple(answer.shape)}")
        return (u * answer.to(u.dtype)).flatten(1).sum(1) / 2

    def forward(self, u: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        """The gradient of :meth:`potential` by ``u``, shape of ``u``.

        It can be differentiated again (by parameters, and by u if u requires a gradient) where gradients are enabled.
        """
        graph = torch.is_grad_enabled() and (u.requires_grad or any(p.requires_grad for p in self.parameters()))
        inside = u if graph and u.requires_grad else differentiable(u)
        with torch.enable_grad():
            value = self.potential(inside, c_noise, label).sum()
            return torch.autograd.grad(value, inside, create_graph=graph)[0]


class InnerProductEnergy(nn.Module):
    r"""A noise-conditional energy made of a network N that was built to denoise.

    Equation ``eq-inner-product-energy`` of ``book/notation.md``.

    .. math:: E(x,\sigma) = \tfrac12\|u\|^2 - \frac{\sigma_d}{2\sigma}\langle u, N(u,\sigma)\rangle,
              \qquad u = \frac{x}{\sqrt{\sigma^2+\sigma_d^2}};

    the module's docstring derives it. It lacks a constant at each σ: compare energies at one noise level only.

    Args:
        network: N: any network for :class:`helpers.diffusion.EDMPrecond`, ``N(u, c_noise)`` or
            ``N(u, c_noise, label)``, with :math:`c_{noise} = \frac14\ln\sigma`. With ReLUs inside, the score jumps
            where one switches; SiLU keeps it continuous.
        sigma_data: σ_d, the standard deviation of the data; 0.5 suits images in [−1, 1].

    Attributes:
        denoiser: The denoiser :math:`D(x;\sigma) = x - \sigma^2\nabla E` as an ``EDMPrecond`` around the gradient
            field: what :func:`helpers.diffusion.edm_loss` trains and the solvers of :mod:`helpers.samplers` sample.
            A training step differentiates twice, and costs two to three times that of N.

    Raises:
        ValueError: If ``sigma_data`` is not positive.

    Example:
        >>> class Untrained(nn.Module):
        ...     def forward(self, u, c_noise):
        ...         return 0 * u
        >>> energy = InnerProductEnergy(Untrained(), sigma_data=1.0)
        >>> f"{energy(torch.ones(1, 4), torch.ones(1)).item():.3f}"  # ½·4/(1 + 1)
        '1.000'
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.denoiser = EDMPrecond(GradientField(network), sigma_data)

    @property
    def sigma_data(self) -> float:
        """σ_d."""
        return self.denoiser.sigma_data

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """E(x, σ) at temperature 1.

        Args:
            x: Shape (B, …).
            sigma: Noise levels > 0, shape (B,).
            label: Classes (B,), or None.

        Returns:
            Shape (B,), dtype of ``x``.

        Raises:
            ValueError: If there is not one noise level per sample.
        """
        if sigma.shape != x.shape[:1]:
            raise ValueError(f"expected one noise level per sample, shape ({len(x)},), got {tuple(sigma.shape)}")
        sigma = sigma.to(x)
        c = self.denoiser.coefficients(sigma)
        u = expand_like(c.input, x) * x
        potential = self.denoiser.network.potential(u, c.noise, label)
        return u.square().flatten(1).sum(1) / 2 - self.sigma_data / sigma * potential

    def denoise(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """D(x; σ) = x − σ²∇E, arguments as in :meth:`forward`; shape of ``x``.

        Computed as c_skip x + c_out F, which loses no digits where σ² is large.
        """
        return self.denoiser(x, sigma, label)

    def score(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """−∇E(x, σ), arguments as in :meth:`forward`; shape of ``x``.

        From F, not from (D − x)/σ², whose numerator is a small difference where σ is small.
        """
        sigma = sigma.to(x)
        c = self.denoiser.coefficients(sigma)
        field = self.denoiser.raw(x, sigma, label)
        return expand_like(self.sigma_data / sigma * c.input, x) * field - expand_like(c.input**2, x) * x


class ClassifierEnergy(nn.Module):
    r"""JEM's energy of a classifier with logits f: :math:`E(x) = -\log\sum_y e^{f_y(x)}` and :math:`E(x, y) = -f_y(x)`.

    With :math:`p(x, y) \propto e^{f_y(x)}`, the classifier's softmax is p(y | x), as it should be.

    Args:
        classifier: Images (B, …) → logits (B, K).

    Example:
        >>> energy = ClassifierEnergy(nn.Linear(2, 10))
        >>> x, label = torch.zeros(3, 2), torch.tensor([0, 1, 2])
        >>> energy(x).shape, energy(x, label).shape
        (torch.Size([3]), torch.Size([3]))
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """E(x), or E(x, y) if labels are given.

        Args:
            x: Shape (B, …).
            label: Classes (B,), int64, or None.

        Returns:
            Shape (B,).

        Raises:
            ValueError: If the classifier's answer is not (B, K), or there is not one label per sample.
        """
        logits = self.classifier(x)
        if logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(f"expected logits of shape ({len(x)}, K), got {tuple(logits.shape)}")
        if label is None:
            return -torch.logsumexp(logits, dim=1)
        if label.shape != x.shape[:1]:
            raise ValueError(f"expected one label per sample, shape ({len(x)},), got {tuple(label.shape)}")
        return -logits.gather(1, label[:, None]).squeeze(1)
