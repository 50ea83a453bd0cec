r"""Maximum likelihood with samples in the place of the partition function: contrastive divergence.

For :math:`p_\theta(x) = e^{-E_\theta(x)}/Z_\theta`, the gradient of the negative log-likelihood is

.. math:: \nabla_\theta L = E_{data}[\nabla_\theta E] - E_{model}[\nabla_\theta E]:

**energies of data go down, energies of the model's own samples go up**, and the two cancel where the densities agree.
So the loss is "data minus model" and is minimised; its *value* is not the likelihood, and a value near 0 says only that
the samples look like data to the energy (:mod:`helpers.oracle` has the identity on a grid, where it is exact).

Samples come from a few Langevin steps. Where these start decides what is learned:

===========================  =======================================  ================================================
start of the chains          class                                    what is learned
===========================  =======================================  ================================================
where they stopped last      :class:`PersistentChains`                the density that the sampler leaves invariant
noise, always                :class:`ShortRun`                        an energy whose *short run* makes data
data                         :class:`DataChains`                      the energy near the data, not far from them
===========================  =======================================  ================================================

(Tieleman 2008, doi:10.1145/1390156.1390290, and for images with restarts Du & Mordatch 2019, arXiv:1903.08689;
Nijkamp et al. 2019, arXiv:1904.09770; Hinton 2002, doi:10.1162/089976602760128018.) Even the first is biased by the
step size: :func:`helpers.oracle.persistent_fixed_point` gives the exact error for a Gaussian.

Samples are constants in the loss. That they depend on θ too, through the sampler, is what contrastive divergence
leaves out; parameters that gather gradients while chains run are a mistake, not a better gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..energy import Energy
from ..langevin import ReplayBuffer, langevin_dynamics

__all__ = [
    "ContrastiveDivergence",
    "DataChains",
    "LangevinSampler",
    "Negatives",
    "PersistentChains",
    "ShortRun",
    "contrastive_divergence_loss",
]

Sampler = Callable[[Energy, Tensor, "torch.Generator | None"], Tensor]
"""``sampler(energy, x, generator)``: moves chains x (B, …) towards exp(−E/T)."""


def contrastive_divergence_loss(energy: Energy, x_data: Tensor, x_model: Tensor, l2: float = 0.0) -> Tensor:
    r"""mean E(data) − mean E(model), plus ``l2`` · (mean E(data)² + mean E(model)²).

    Equation ``eq-likelihood-gradient`` of ``book/notation.md``.

    Its gradient in θ is that of the negative log-likelihood at T = 1, as far as ``x_model`` are samples of the model.
    At another temperature the likelihood's gradient is 1/T of it. The L2 term holds the energies near 0: without it
    nothing does, because the first two terms do not change if a constant is added to E (Du & Mordatch 2019,
    arXiv:1903.08689, section 3.2). It also flattens the energy, and so biases the density: keep it small.

    Args:
        energy: ``energy(x) -> (B,)``, low is likely.
        x_data: Data (B, …).
        x_model: Samples of the model (B', …), held constant: no gradient flows into what made them.
        l2: Weight of the squared energies.

    Returns:
        A scalar to minimise.

    Raises:
        ValueError: If ``l2`` is negative, the shapes of data and samples differ beyond their number, or the energy is
            not of shape (B,).

    Example:
        >>> energy = lambda x: x.square().sum(1)
        >>> contrastive_divergence_loss(energy, torch.tensor([[1.0]]), torch.tensor([[3.0]]))  # data are lower: good
        tensor(-8.)
    """
    return _objective(*_energies(energy, x_data, x_model), l2)


def _energies(energy: Energy, x_data: Tensor, x_model: Tensor) -> tuple[Tensor, Tensor]:
    """Energies of both, shapes (B,) and (B',), in at least single precision; one pass through the network."""
    if x_data.shape[1:] != x_model.shape[1:] or not (len(x_data) and len(x_model)):
        raise ValueError(
            f"expected data and samples of one shape, got {tuple(x_data.shape)} and {tuple(x_model.shape)}"
        )
    x = torch.cat([x_data, x_model.detach().to(x_data.dtype)])
    values = energy(x)
    if values.shape != x.shape[:1]:
        raise ValueError(f"expected energies of shape ({len(x)},), got {tuple(values.shape)}")
    values = values if values.dtype == torch.float64 else values.float()  # a difference: bfloat16 would lose it
    return values[: len(x_data)], values[len(x_data) :]


def _objective(data: Tensor, model: Tensor, l2: float) -> Tensor:
    if not l2 >= 0:
        raise ValueError(f"expected l2 >= 0, got {l2}")
    loss = data.mean() - model.mean()
    return loss + l2 * (data.square().mean() + model.square().mean()) if l2 else loss


@dataclass(frozen=True)
class LangevinSampler:
    """The settings of :func:`helpers.langevin.langevin_dynamics`, kept: a sampler for the classes below.

    Attributes:
        n_steps: K, Langevin steps each time.
        step_size: ε; √ε is the width of the noise, which should be below that of the narrowest mode.
        temperature: T.
        noise_scale: The noise's absolute size in place of √(εT): a hidden temperature, and a warning says which.
        grad_clip: Largest norm of a sample's gradient, or None.
        clamp: Range into which samples are clipped after each step, such as (−1, 1), or None.
    """

    n_steps: int = 20
    step_size: float = 0.02
    temperature: float = 1.0
    noise_scale: float | None = None
    grad_clip: float | None = None
    clamp: tuple[float, float] | None = None

    def __call__(self, energy: Energy, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Move x (B, …) by ``n_steps``; the parameters of the energy gather no gradients."""
        return langevin_dynamics(
            energy,
            x,
            self.n_steps,
            self.step_size,
            temperature=self.temperature,
            noise_scale=self.noise_scale,
            grad_clip=self.grad_clip,
            clamp=self.clamp,
            generator=generator,
        )


class Negatives(Protocol):
    """Where samples of the model come from."""

    def __call__(self, energy: Energy, x_data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Samples (B', …), without a graph, given a batch of data (B, …)."""


class PersistentChains:
    """Negatives from chains that go on where they stopped when the energy was last updated.

    A batch of chains is drawn from the buffer, moved, and put back; if the sampler fails, the buffer is as before.

    Args:
        buffer: The chains; its capacity must be at least the size of a batch.
        sampler: How they move; any ``sampler(energy, x, generator) -> x``, or
            :class:`LangevinSampler` with its standard settings.
    """

    def __init__(self, buffer: ReplayBuffer, sampler: Sampler | None = None) -> None:
        self.buffer, self.sampler = buffer, sampler or LangevinSampler()

    def __call__(self, energy: Energy, x_data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As many samples as data (B, …), of their dtype and on their device."""
        x, index = self.buffer.draw(len(x_data), generator)
        x = self.sampler(energy, x.to(x_data), generator).detach()
        self.buffer.put(index, x)
        return x

    def state_dict(self) -> dict[str, Tensor]:
        """The chains."""
        return self.buffer.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the chains of :meth:`state_dict`.

        Raises:
            ValueError: If they do not fit the buffer.
        """
        self.buffer.load_state_dict(state)


class ShortRun:
    """Negatives from new chains each time, which start from noise and are stopped early, on purpose.

    Good samples come from running the *same* short chain again; exp(−E) is another density than theirs.

    Args:
        initial: ``initial(n, generator) -> (n, …)``: where chains start.
        sampler: How they move, as in :class:`PersistentChains`.
    """

    def __init__(
        self, initial: Callable[[int, torch.Generator | None], Tensor], sampler: Sampler | None = None
    ) -> None:
        self.initial, self.sampler = initial, sampler or LangevinSampler()

    def __call__(self, energy: Energy, x_data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As many samples as data (B, …), of their dtype and on their device."""
        return self.sample(energy, self.initial(len(x_data), generator).to(x_data), generator)

    def sample(self, energy: Energy, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The short run itself, from x (B, …): how a trained model is sampled."""
        return self.sampler(energy, x, generator).detach()


class DataChains:
    """Negatives from chains that start at the batch of data: contrastive divergence as it was first proposed.

    Cheap, and blind to modes of the model far from all data (Hinton 2002).

    Args:
        sampler: How they move, as in :class:`PersistentChains`.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.sampler = sampler or LangevinSampler()

    def __call__(self, energy: Energy, x_data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """As many samples as data, shape of ``x_data``."""
        return self.sampler(energy, x_data.detach(), generator).detach()


class ContrastiveDivergence:
    r"""The loss ``loss(energy, batch, generator)`` for ``train``: draw negatives, compare energies.

    It goes into checkpoints with the training, chains and all: give it to ``train`` itself, not wrapped in a lambda.

    Args:
        negatives: :class:`PersistentChains`, :class:`ShortRun`, :class:`DataChains`, or another
            ``negatives(energy, x_data, generator) -> x_model``.
        l2: Weight of the squared energies, see :func:`contrastive_divergence_loss`.
        data_noise: Standard deviation of Gaussian noise added to the data: a little keeps the energy of discrete or
            nearly flat data from growing without limit. The model then learns the noised density.

    Attributes:
        last_energies: Mean energies of data and of samples in the last call, two numbers, or None before: both drifting
            off together means too little ``l2``, the samples' far above the data's, chains that lag behind.

    Raises:
        ValueError: If ``l2`` or ``data_noise`` is negative.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> energy, x = (lambda x: x.square().sum(1) / 2), torch.zeros(64, 2)
        >>> loss = ContrastiveDivergence(DataChains(LangevinSampler(n_steps=5, step_size=0.1)))
        >>> loss(energy, x, generator).item() < 0  # samples have moved up from the data
        True
    """

    def __init__(self, negatives: Negatives, *, l2: float = 0.0, data_noise: float = 0.0) -> None:
        if not (l2 >= 0 and data_noise >= 0):
            raise ValueError(f"expected l2 and data_noise >= 0, got {l2} and {data_noise}")
        self.negatives, self.l2, self.data_noise = negatives, l2, data_noise
        self.last_energies: tuple[float, float] | None = None

    def __call__(self, energy: Energy, x_data: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss of a batch (B, …), a scalar. The energy's parameters get gradients from it and from nothing else."""
        if self.data_noise:
            noise = torch.randn(x_data.shape, generator=generator, dtype=x_data.dtype)
            x_data = x_data + self.data_noise * noise.to(x_data.device)
        data, model = _energies(energy, x_data, self.negatives(energy, x_data, generator))
        self.last_energies = data.mean().item(), model.mean().item()
        return _objective(data, model, self.l2)

    def state_dict(self) -> dict[str, Tensor]:
        """What the negatives remember: tensors by name; empty if nothing."""
        remember = getattr(self.negatives, "state_dict", dict)
        return dict(remember())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state_dict`.

        Raises:
            ValueError: If the state is of other negatives.
        """
        if hasattr(self.negatives, "load_state_dict"):
            self.negatives.load_state_dict(state)
        elif state:
            raise ValueError(f"expected no state for negatives that remember nothing, got {sorted(state)}")
