"""The models of a service: found, verified and loaded once, before the first request.

Weights are safetensors whose SHA-256 the model card states, networks are those that :mod:`helpers.zoo` can build:
nothing in a file is ever executed, and no request names a file.

Of what kind a model is follows from its card:

* ``diffusion``: it has a noise schedule (discrete time), or a preconditioning (continuous noise);
* ``energy``: its architecture's name starts with "Energy", or the architecture has an entry ``"energy"``, as a network
  has that becomes an energy by what is built around it. The card's entry ``"sampling"`` says how it is sampled, and
  ``"energy_quantiles"`` what energies the test set has (see :class:`LangevinSettings` and :func:`percentile`);
* ``classifier``: anything else; it is listed, and draws nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import data, generation, zoo
from ..energy import AtLevel, energy_and_gradient
from .settings import Settings

__all__ = ["Kind", "ServedModel", "kind_of", "load_models", "percentile"]

Kind = Literal["diffusion", "energy", "classifier"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


ENERGY_LEVEL = 0.1
"""The noise level at which pictures are compared by an energy that knows several, if its card does not say."""


@dataclass(frozen=True)
class ServedModel:
    """A model with all that a request to it needs to know.

    Attributes:
        name: By which requests ask for it.
        kind: diffusion, energy or classifier.
        card: Its card.
        network: The loaded network, in evaluation mode.
        classes: Names of the classes that pictures can be asked of, empty if there are none.
        samplers: Names of the samplers that it can be sampled with, the default first.
        default_steps: Steps where a request does not say how many.
        max_steps: The most that a request may ask for.
        energy: Pictures (B, C, H, W) → energies (B,), for a model of kind energy, else None.
    """

    name: str
    kind: Kind
    card: Mapping[str, Any]
    network: Callable[..., Tensor]
    classes: tuple[str, ...] = ()
    samplers: tuple[str, ...] = ()
    default_steps: int = 0
    max_steps: int = 0
    energy: Callable[[Tensor], Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its pictures."""
        return tuple(self.card["shape"])

    @property
    def draws(self) -> bool:
        """Whether it can make pictures."""
        return bool(self.samplers)

    @property
    def guided(self) -> bool:
        """Whether it knows classifier-free guidance."""
        return bool(self.classes)

    def predict(self, *inputs: Tensor) -> Tensor:
        """One evaluation: noisy pictures, noise levels or times, and labels if there are any."""
        with torch.no_grad():
            return getattr(self.network, "denoise", self.network)(*inputs)

    def energies(self, x: Tensor) -> Tensor:
        """Energies (B,) of pictures (B, C, H, W)."""
        with torch.no_grad():
            return self.energy(x)

    def energies_and_gradients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with the gradients (B, C, H, W)."""
        # One request's chain that diverges must not end those that share the evaluation: each looks at its own.
        return energy_and_gradient(self.energy, x, check_finite=False)


def kind_of(card: Mapping[str, Any]) -> Kind:
    """The kind of the model that a card describes (see the module's docstring).

    Example:
        >>> kind_of(zoo.card("digits-ddpm")), kind_of(zoo.card("digits-classifier"))
        ('diffusion', 'classifier')
    """
    architecture = card["architecture"]
    if architecture.get("energy") or architecture["name"].startswith("Energy"):
        return "energy"
    if architecture.get("preconditioning") or card.get("schedule"):
        return "diffusion"
    return "classifier"


def class_names(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes of a class-conditional model: the card's, CIFAR-10's, or else their numbers."""
    n = generation.n_classes(card)
    if names := card.get("classes"):
        if len(names) != n:
            raise ValueError(f'expected {n} names in "classes", got {len(names)}')
        return tuple(map(str, names))
    if n == len(data.CIFAR10.classes) and tuple(card["shape"]) == (3, 32, 32):
        return tuple(data.CIFAR10.classes)
    return tuple(map(str, range(n)))


def percentile(card: Mapping[str, Any], energy: float) -> float | None:
    """Per cent of the test set with a lower energy, from the card's ``"energy_quantiles"``; None if it has none.

    The quantiles are the energies at evenly spaced shares from 0 to 1 of the sorted test set.

    Example:
        >>> percentile({"energy_quantiles": [-2.0, 0.0, 1.0]}, -1.0)
        25.0
    """
    quantiles: Sequence[float] | None = card.get("energy_quantiles")
    if not quantiles:
        return None
    knots = torch.tensor(quantiles, dtype=torch.float64)
    if energy <= knots[0] or energy > knots[-1]:
        return 0.0 if energy <= knots[0] else 100.0
    right = int(torch.searchsorted(knots, energy))
    inside = (energy - knots[right - 1]) / (knots[right] - knots[right - 1])
    return 100 * float(right - 1 + inside) / (len(knots) - 1)


def serve_model(name: str, card: Mapping[str, Any], network: nn.Module, max_steps: int) -> ServedModel:
    """A loaded network as a model of the service.

    Raises:
        ValueError: For a card that lacks something.
    """
    kind = kind_of(card)
    if kind == "classifier":
        return ServedModel(name, kind, card, network)
    if generation.is_energy(card):
        # The card's steps are what makes its pictures: fewer than those would be others.
        steps = generation.LangevinSettings.of(card).steps
        return ServedModel(name, kind, card, network, (), ("langevin",), steps, max(steps, max_steps), energy=network)
    energy = None
    if kind == "energy":
        energy = AtLevel(network, generation.LangevinSettings.of(card).sigma or ENERGY_LEVEL)
    continuous = generation.is_continuous(card)
    solvers = sorted(generation.SOLVERS, key=lambda solver: solver != "ipndm") if continuous else ["ddim"]
    total = max_steps if continuous else min(max_steps, zoo.schedule_of(card).n_steps)
    steps = min(generation.DEFAULT_STEPS["continuous" if continuous else "discrete"], total)
    return ServedModel(name, kind, card, network, class_names(card), tuple(solvers), steps, total, energy)


def load_models(settings: Settings) -> dict[str, ServedModel]:
    """All models of a service by name, sorted: those that ship, and those of the operator's folder, which go before
    those that ship under the same name.

    Raises:
        ValueError: For a damaged file, a name that is unfit for a URL, a model that is asked for and not there, or if
            none of them draws pictures.
        FileNotFoundError: If the folder or a card is missing.
    """
    found: dict[str, Callable[[], tuple[nn.Module, Mapping[str, Any]]]] = {
        name: lambda name=name: (zoo.load(name), zoo.card(name)) for name in zoo.available()
    }
    for path in _weights_in(settings.models_dir):
        if not NAME.fullmatch(path.stem):
            raise ValueError(f"expected a file name of letters, digits, '.', '_' and '-', got {path.name!r}")
        found[path.stem] = lambda path=path: zoo.load_file(path)
    wanted = sorted(found) if settings.models is None else settings.models
    if unknown := set(wanted) - set(found):
        raise ValueError(f"expected models out of {', '.join(sorted(found))}, got {', '.join(sorted(unknown))}")
    models = {}
    for name in sorted(wanted):
        network, card = found[name]()
        if len(card["shape"]) == 3:  # others make points, not pictures
            models[name] = serve_model(name, card, network, settings.max_steps)
    if not any(model.draws for model in models.values()):
        raise ValueError(f"expected a model that draws pictures, got {', '.join(models) or 'none'}")
    return models


def _weights_in(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of models at {folder}")
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))


def names_in(folder: Path | None) -> set[str]:
    """Names of the models of an operator's folder."""
    return {path.stem for path in _weights_in(folder)}
