"""Chains that go on where they stopped: a replay buffer for training energies by persistent chains.

Persistent contrastive divergence (Tieleman 2008) keeps chains from one update of the energy to the next, since a chain
that is near the last energy's density is near the next one's. Du & Mordatch (2019, arXiv:1903.08689) keep many more
chains than a batch, continue a random batch of them, and restart 5 % of those from noise, so that no mode is forgotten
and the energy is lowered on the way from noise to data too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["ReplayBuffer"]


def _uniform(n: int, shape: Sequence[int], generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
    return 2 * torch.rand((n, *shape), generator=generator, dtype=dtype) - 1


class ReplayBuffer:
    """``capacity`` chains, of which random ones are drawn, moved by a sampler, and put back.

    Args:
        capacity: How many chains are kept.
        shape: Of one chain's state, for example (3, 32, 32).
        restart: The probability that a drawn chain starts anew.
        initial: ``initial(n, generator) -> (n, *shape)``: where chains start; uniform in [−1, 1], the range of images,
            if not given.
        augment: ``augment(x, generator) -> x``: applied to drawn chains that go on, for example flips and blur (Du et
            al. 2021, arXiv:2012.01316), which move chains between modes.
        generator: Source of the first states.
        dtype: Of the states.

    Attributes:
        chains: The states, shape (capacity, *shape), on the CPU.
        ages: How often each was put back since its last start, shape (capacity,), int64.

    Raises:
        ValueError: For a capacity below 1, a restart probability outside [0, 1], or initial states of another shape.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> buffer = ReplayBuffer(1000, (2,), generator=generator)
        >>> x, index = buffer.draw(64, generator)
        >>> buffer.put(index, x + 1)  # where a sampler has moved them
        >>> torch.equal(buffer.chains[index], x + 1)
        True
    """

    def __init__(
        self,
        capacity: int,
        shape: Sequence[int],
        restart: float = 0.05,
        *,
        initial: Callable[[int, torch.Generator | None], Tensor] | None = None,
        augment: Callable[[Tensor, torch.Generator | None], Tensor] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"expected a capacity >= 1, got {capacity}")
        if not 0 <= restart <= 1:
            raise ValueError(f"expected a restart probability in [0, 1], got {restart}")
        self.shape, self.restart, self.initial, self.augment, self.dtype = (
            tuple(shape),
            restart,
            initial,
            augment,
            dtype,
        )
        self.chains = self._fresh(capacity, generator)
        self.ages = torch.zeros(capacity, dtype=torch.int64)
        self._anew = torch.zeros(capacity, dtype=torch.bool)  # drawn as a new start, and not yet put back

    def __len__(self) -> int:
        return len(self.chains)

    def _fresh(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n states to start from, cut from whatever made them."""
        if self.initial is None:
            return _uniform(n, self.shape, generator, self.dtype)
        states = self.initial(n, generator)
        self._check_states(states, n, "initial states")
        return states.detach().to("cpu", self.dtype, copy=True)

    def _check_states(self, states: Tensor, n: int, name: str) -> None:
        if tuple(states.shape) != (n, *self.shape):
            raise ValueError(f"expected {name} of shape {(n, *self.shape)}, got {tuple(states.shape)}")

    def draw(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Choose n different chains; restart some, and augment the others.

        What is kept changes only when it is put back.

        Args:
            n: How many, at most the capacity.
            generator: Source of the choice, the restarts and the augmentation.

        Returns:
            Copies of their states (n, *shape), without gradients, and which they are (n,), int64: for :meth:`put`.

        Raises:
            ValueError: If n is below 1 or above the capacity, or augmented states have another shape.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"expected to draw between 1 and {len(self)} chains, got {n}")
        index = torch.randperm(len(self), generator=generator)[:n]
        fresh = torch.rand(n, generator=generator) < self.restart
        x = self.chains[index]
        if self.augment is not None and not fresh.all():
            going_on = self.augment(x[~fresh], generator)
            self._check_states(going_on, int((~fresh).sum()), "augmented states")
            x[~fresh] = going_on.detach().to("cpu", self.dtype)
        if fresh.any():
            x[fresh] = self._fresh(int(fresh.sum()), generator)
        self._anew[index] = fresh
        return x, index

    def put(self, index: Tensor, x: Tensor) -> None:
        """Put chains back where they were drawn.

        Args:
            index: As :meth:`draw` gave it, shape (n,).
            x: Their new states (n, *shape), on any device; cut from their graph.

        Raises:
            ValueError: If shapes do not fit, an index appears twice or is out of range, or a state is not finite; the
                buffer is unchanged then.
        """
        if index.ndim != 1 or index.dtype != torch.int64:
            raise ValueError(f"expected the index that draw gave, (n,) int64, got {tuple(index.shape)} {index.dtype}")
        self._check_states(x, len(index), "states")
        if len(index.unique()) != len(index) or (len(index) and not 0 <= index.min() <= index.max() < len(self)):
            raise ValueError(f"expected different numbers from 0 to {len(self) - 1} in the index")
        x = x.detach().to("cpu", self.dtype)
        if not x.isfinite().all():
            bad = int((~x.isfinite().flatten(1).all(1)).sum())
            raise ValueError(f"expected finite states, got {bad} of {len(x)} that are not: the chains have diverged")
        index = index.cpu()
        self.chains[index] = x
        self.ages[index] = torch.where(self._anew[index], 0, self.ages[index]) + 1
        self._anew[index] = False

    def state_dict(self) -> dict[str, Tensor]:
        """``chains`` and ``ages``, copies; tensors only, so that any file format for weights will hold them."""
        return {"chains": self.chains.clone(), "ages": self.ages.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the chains of :meth:`state_dict`.

        Raises:
            ValueError: If a name is missing or too many, or a shape is not this buffer's; it is unchanged then.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise ValueError(f"expected {sorted(own)} in a replay buffer's state, got {sorted(state)}")
        for name, value in own.items():
            if state[name].shape != value.shape:
                raise ValueError(f"expected {name} of shape {tuple(value.shape)}, got {tuple(state[name].shape)}")
        self.chains = state["chains"].detach().to("cpu", self.dtype, copy=True)
        self.ages = state["ages"].detach().to("cpu", torch.int64, copy=True)
        self._anew = torch.zeros(len(self), dtype=torch.bool)
