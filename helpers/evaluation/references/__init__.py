"""Features of real images, kept small enough to ship, so that evaluation needs no data set.

A reference is one ``.safetensors`` file with a card (JSON) of the same name beside it: data with its hash, protocol,
versions, command, and the SHA-256 of the file, which is verified before anything is used. It holds no images, but

* mean and covariance of the features of the test images, for the Fréchet distance (the upper triangle in float16: its
  distance to the exact one is in the card, and far below the last digit of any table);
* a random projection, and the first test images after it (float16), for kernel distances and nearest-neighbour
  measures: directions drawn blindly keep all distances within some 10 % (Johnson & Lindenstrauss 1984). The leading
  principal axes of real images, which show least of what is wrong with other images, would distort more;
* optionally all training images there (8 bits an axis), to look for copies.

``python -m helpers.evaluation.references build NAME --data FOLDER`` makes one.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ... import __version__, training
from ..features import Features, as_bytes
from ..frechet import FeatureStatistics, extract_features, feature_statistics, frechet_distance

__all__ = ["Reference", "available_references", "build_reference", "load_reference", "save_reference"]

FOLDER = Path(__file__).parent
N_REDUCED = 5000
"""How many reference images are kept one by one, for kernel distances and nearest neighbours."""
DIMENSIONS = 64
"""Numbers an image that are then kept."""


@dataclass(frozen=True)
class Reference:
    """Real images, as features.

    Attributes:
        statistics: Of all reference images (the test images), F features.
        projection: (F, D), float32: D orthogonal directions, times √(F/D), so that lengths stay the same on average.
        held_out: The first reference images, reduced, (M, D), float32.
        train: The training images, reduced, (L, D), float32, or None.
        info: The card.
    """

    statistics: FeatureStatistics
    projection: Tensor
    held_out: Tensor
    train: Tensor | None
    info: Mapping[str, Any]

    def reduce(self, features: Tensor) -> Tensor:
        """Features (N, F), centred and projected: (N, D), float32.

        Raises:
            ValueError: If there are not F features.
        """
        if features.ndim != 2 or features.shape[1] != len(self.projection):
            raise ValueError(f"expected features of shape (N, {len(self.projection)}), got {tuple(features.shape)}")
        return ((features.double() - self.statistics.mean) @ self.projection.double()).float()


def _data_hash(images: Tensor) -> str:
    """SHA-256 of the bytes in the order N×H×W×3."""
    return hashlib.sha256(images.permute(0, 2, 3, 1).contiguous().numpy().tobytes()).hexdigest()


def _pack(
    statistics: FeatureStatistics, projection: Tensor, held_out: Tensor, train: Tensor | None
) -> dict[str, Tensor]:
    rows, columns = torch.triu_indices(*statistics.covariance.shape)
    tensors = {
        "mean": statistics.mean.float(),
        "covariance": statistics.covariance[rows, columns].half(),
        "n": torch.tensor(statistics.n),
        "projection": projection.float(),
        "held_out": held_out.half(),
    }
    if train is not None:
        scale = train.abs().amax(0).clamp_min(1e-12).float() / 127
        tensors |= {"train": (train / scale).round().to(torch.int8), "train_scale": scale}
    return {name: value.contiguous() for name, value in tensors.items()}


def _unpack(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Reference:
    mean = tensors["mean"].double()
    upper = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    rows, columns = torch.triu_indices(*upper.shape)
    upper[rows, columns] = tensors["covariance"].double()
    train = tensors["train"].float() * tensors["train_scale"] if "train" in tensors else None
    statistics = FeatureStatistics(mean, upper + upper.triu(1).T, int(tensors["n"]))
    return Reference(statistics, tensors["projection"], tensors["held_out"].float(), train, info)


def build_reference(
    features: Features,
    test: Tensor,
    train: Tensor | None = None,
    *,
    data: str = "CIFAR-10",
    command: str = "",
    n_reduced: int = N_REDUCED,
    dimensions: int = DIMENSIONS,
    batch_size: int = 100,
) -> tuple[Reference, dict[str, Tensor]]:
    """Make a reference from images.

    Args:
        features: The feature space.
        test: uint8 (N, 3, 32, 32): the reference images.
        train: uint8 (L, 3, 32, 32), where training images are to be looked for among samples, or None.
        data: What the images are, for the card.
        command: What was typed, for the card.
        n_reduced: How many reference images are kept one by one.
        dimensions: D of the projection, whose directions are drawn with seed 0.
        batch_size: Images at a time.

    Returns:
        The reference as it will be loaded, and its tensors as :func:`save_reference` stores them.

    Raises:
        ValueError: If there are fewer than two images, or ``n_reduced`` or ``dimensions`` does not fit.
    """
    if len(test) < 2 or not 1 <= n_reduced <= len(test) or not 1 <= dimensions <= features.n_features:
        raise ValueError(
            f"expected n_reduced from 1 to the {len(test)} images (two at least), and dimensions from 1 to the "
            f"{features.n_features} features, got {n_reduced} and {dimensions}"
        )
    test = as_bytes(test)
    x = extract_features(features, test, batch_size)
    exact = feature_statistics(x)
    directions = torch.randn(x.shape[1], dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    projection = (torch.linalg.qr(directions).Q * (x.shape[1] / dimensions) ** 0.5).float()

    def reduce(z: Tensor) -> Tensor:
        return (z - exact.mean.float().double()) @ projection.double()

    reduced_train = None if train is None else reduce(extract_features(features, as_bytes(train), batch_size))
    tensors = _pack(exact, projection, reduce(x[:n_reduced]), reduced_train)
    stored = _unpack(tensors, {})
    info = {
        "name": features.name,
        "summary": f"{features.n_features} features of {len(test)} test images: mean and covariance, and the first "
        f"{n_reduced} in {dimensions} random directions" + ("" if train is None else f"; {len(train)} training images"),
        "features": features.describe(),
        "data": data,
        "data_sha256": {"test": _data_hash(test)} | ({} if train is None else {"train": _data_hash(train)}),
        "n": len(test),
        "n_reduced": n_reduced,
        "dimensions": dimensions,
        "distance_moved_by_storage": frechet_distance(exact, stored.statistics),
        "command": command,
        "versions": {
            "helpers": __version__,
            "torch": torch.__version__.split("+")[0],
            "python": platform.python_version(),
        },
    }
    return _unpack(tensors, info), tensors


def save_reference(folder: str | Path, reference: Reference, tensors: Mapping[str, Tensor]) -> Path:
    """Write what :func:`build_reference` made: ``folder/NAME.safetensors`` and its card, with the file's SHA-256.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(folder) / f"{reference.info['name']}.safetensors"
    content = safetensors.torch.save(dict(tensors))
    card = {**reference.info, "sha256": hashlib.sha256(content).hexdigest()}
    training.write_atomically(path, content)
    training.write_atomically(path.with_suffix(".json"), (json.dumps(card, indent=2) + "\n").encode())
    return path


def available_references() -> list[str]:
    """Names of the references that ship, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def load_reference(name: str, folder: str | Path | None = None) -> Reference:
    """A reference by its name, after checking that file and card belong together.

    Args:
        name: One of :func:`available_references`, or of the folder.
        folder: Where to look instead of among the shipped ones.

    Raises:
        ValueError: For an unknown name (the message lists the known ones), or a file that its card does not describe.
    """
    place = FOLDER if folder is None else Path(folder)
    known = sorted(path.stem for path in place.glob("*.safetensors"))
    if name not in known:
        raise ValueError(f"expected a reference out of {', '.join(known) or '(none)'}, got {name!r}")
    path = place / f"{name}.safetensors"
    try:
        info = json.loads(path.with_suffix(".json").read_text("utf-8"))
        expected = info["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name}.json does not describe a reference ({error!r}): get both files anew") from error
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise ValueError(f"{path.name} is not the file that {name}.json describes (SHA-256 differs): get both anew")
    return _unpack(safetensors.torch.load(content), info)
