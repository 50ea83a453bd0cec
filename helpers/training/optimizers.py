r"""The optimisers of the loop: AdamW for all weights, or Muon for the matrices inside a network.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) averages the gradients :math:`G` of a weight
matrix, :math:`B \leftarrow \mu B + G`, and takes its step along the nearest matrix with orthonormal rows or columns,

.. math:: W \leftarrow W - 0.2\,\eta \sqrt{\max(m, n)}\; U V^\top, \qquad G + \mu B = U \Sigma V^\top,

for an :math:`m \times n` matrix: every direction that the gradient has is followed equally far, where AdamW follows
what a few large singular values say. :class:`torch.optim.Muon` finds :math:`UV^\top` approximately, by five
Newton–Schulz iterations of matrix products alone. The factor before it makes the root mean square of an update that of
AdamW, so that both can share a learning rate (Liu et al. 2025, arXiv:2502.16982).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainingConfig

__all__ = ["MuonAdamW", "hidden_matrices", "optimizer_of"]

SMALLEST = 16


def hidden_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that Muon is for: of linear layers and convolutions, between more than 16 channels on both sides.

    Layers that see pixels or give them, embeddings, normalisations and biases are left to AdamW, as its authors advise.
    A weight that several layers share appears once.

    Args:
        model: Any network.

    Returns:
        Parameters by name: matrices (out, in), or kernels (out, in, …).
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights = {module.weight for module in model.modules() if isinstance(module, kinds)}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter in weights and min(parameter.shape[:2]) > SMALLEST and parameter.requires_grad
    }


def as_matrix(tensor: Tensor) -> Tensor:
    """A view (out, in × kernel) of a weight, whose columns are in the order in which it lies in memory.

    Raises:
        ValueError: If the weight lies in memory in another way than contiguous or channels-last.
    """
    if tensor.is_contiguous():
        return tensor.flatten(1)
    if tensor.movedim(1, -1).is_contiguous():
        return tensor.movedim(1, -1).flatten(1)
    raise ValueError(f"expected a contiguous or channels-last weight, got strides {tensor.stride()}")


class MuonAdamW:
    """Muon for the hidden matrices of a network, AdamW for all its other weights.

    It has what the loop uses of an optimiser: ``param_groups``, ``zero_grad``, ``step`` and ``state``.
    The state of a weight is a dictionary, ``momentum_buffer`` (a matrix) or AdamW's.

    Args:
        model: The network, where it will stay, in the memory layout that it will keep.
        config: Rate and weight decay are of both, ``betas`` and ``fused`` of AdamW; Muon's momentum is 0.95.

    Raises:
        ValueError: If no weight of the network is for Muon, or if torch is too old to have it (before 2.9).
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f"expected torch 2.9 or later for optimizer 'muon', got {torch.__version__}: update it, or choose "
                "optimizer 'adamw' and a lower rate"
            )
        hidden = list(hidden_matrices(model).values())
        if not hidden:
            raise ValueError(f"expected layers between more than {SMALLEST} channels for optimizer 'muon', got none")
        self.views = {parameter: nn.Parameter(as_matrix(parameter.detach())) for parameter in hidden}
        rate, decay = config.learning_rate, config.weight_decay
        self.muon = torch.optim.Muon(
            list(self.views.values()), lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
        )
        rest = [p for p in model.parameters() if p not in self.views]
        self.adamw = _adamw([{"params": rest}], config)  # as a group it may be empty

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @property
    def state(self) -> _State:
        """What is kept of each weight."""
        return _State(self)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.adamw.zero_grad()
        for parameter, view in self.views.items():
            parameter.grad = view.grad = None

    def step(self) -> None:
        """Update the weights by their gradients."""
        for parameter, view in self.views.items():
            if parameter.grad is not None:
                view.grad = as_matrix(torch.empty_like(parameter, requires_grad=False).copy_(parameter.grad))
        self.muon.step()
        self.adamw.step()


class _State:
    """The states of two optimisers as one, by the network's own parameters."""

    def __init__(self, optimizer: MuonAdamW) -> None:
        self.optimizer = optimizer

    def get(self, parameter: nn.Parameter, otherwise: dict[str, Tensor]) -> dict[str, Tensor]:
        optimizer, key = self._find(parameter)
        return optimizer.state.get(key, otherwise)

    def __setitem__(self, parameter: nn.Parameter, value: dict[str, Tensor]) -> None:
        optimizer, key = self._find(parameter)
        optimizer.state[key] = value

    def _find(self, parameter: nn.Parameter) -> tuple[torch.optim.Optimizer, nn.Parameter]:
        view = self.optimizer.views.get(parameter)
        return (self.optimizer.adamw, parameter) if view is None else (self.optimizer.muon, view)


def optimizer_of(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer | MuonAdamW:
    """The optimiser that a configuration names, for all weights of a network.

    Raises:
        ValueError: As :class:`MuonAdamW`.
    """
    return MuonAdamW(model, config) if config.optimizer == "muon" else _adamw(model.parameters(), config)


def _adamw(parameters: Any, config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=tuple(map(float, config.betas)),
        weight_decay=config.weight_decay,
        **({"fused": True} if config.fused else {}),
    )
