"""One function for every results table, with the protocol in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .classifier import class_accuracy
from .features import Features, as_bytes, load_features, shipped_cifarnet
from .frechet import extract_features, feature_statistics, frechet_distance
from .kernel import kernel_distance
from .neighbours import data_copying, precision_recall
from .references import Reference, load_reference

__all__ = ["PROTOCOL", "Protocol", "evaluate_features", "evaluate_images"]


@dataclass(frozen=True)
class Protocol:
    """Numbers that a table's rows must share, beside features, reference and N.

    Attributes:
        k: Which neighbour sets the radius of precision, recall, density and coverage.
        n_neighbours: At most so many samples are used for these, for the kernel distance and for copies.
        n_blocks: Blocks of the kernel distance.
    """

    k: int = 5
    n_neighbours: int = 5000
    n_blocks: int = 10

    def check_number(self, n: int) -> None:
        """Refuse too few images for the blocks of the kernel distance, or for neighbours.

        Raises:
            ValueError: If there are fewer than two a block or than k + 2.
        """
        least = max(2 * self.n_blocks, self.k + 2)
        if n < least:
            raise ValueError(f"expected at least {least} images, got {n}")


PROTOCOL = Protocol()
"""The course's."""


def evaluate_features(x: Tensor, reference: Reference, protocol: Protocol = PROTOCOL) -> dict[str, Any]:
    """What :func:`evaluate_images` says of a set of images, from their features alone.

    Args:
        x: Features (N, F), of the space of the reference.
        reference: What to compare with.
        protocol: Another one than the course's.

    Returns:
        As :func:`evaluate_images`, without a class accuracy.

    Raises:
        ValueError: If there are fewer rows than two a block or than k + 2, or features of another dimension.
    """
    protocol.check_number(len(x))
    reduced = reference.reduce(x[: protocol.n_neighbours])
    kernel = kernel_distance(reduced, reference.held_out, protocol.n_blocks)
    result: dict[str, Any] = {
        "features": reference.info["name"],
        "label": reference.info["features"]["label"],
        "n": len(x),
        "n_reference": reference.statistics.n,
        "frechet_distance": frechet_distance(feature_statistics(x), reference.statistics),
        "kernel_distance": kernel.value,
        "kernel_distance_error": kernel.standard_error,
        **precision_recall(reference.held_out, reduced, protocol.k),
    }
    if reference.train is not None:
        result["data_copying"] = data_copying(reduced, reference.train, reference.held_out)
    return result


def evaluate_images(
    images: Tensor,
    reference: Reference | str = "effnetlite0",
    *,
    features: Features | None = None,
    labels: Tensor | None = None,
    classifier: nn.Module | None = None,
    batch_size: int = 100,
    protocol: Protocol = PROTOCOL,
) -> dict[str, Any]:
    """Everything that a row of a results table says about a set of images; the same images give the same numbers.

    The Fréchet distance uses all features and all images. Kernel distance, neighbours and copies use the reference's
    random projection and at most ``protocol.n_neighbours`` images, so that they need no data set: such a kernel
    distance is no KID, its scale is its own. Read precision, density and ``data_copying`` beside recall and
    coverage only: images without detail, even noise, crowd where outliers among real images have wide neighbourhoods,
    and score well in them.

    Args:
        images: uint8, or floats in [−1, 1]; (N, 3, 32, 32).
        reference: A shipped reference by name, or any other.
        features: The feature space, or None to load the one that the reference names. Pass it to evaluate many sets.
        labels: int64 (N,): the classes that were asked for, for the class accuracy.
        classifier: Judges them; None for the shipped one.
        batch_size: Images at a time.
        protocol: Another one than the course's.

    Returns:
        ``features, label, n, n_reference, frechet_distance, kernel_distance, kernel_distance_error, precision, recall,
        density, coverage``; ``data_copying`` if the reference has training images; ``class_accuracy`` if labels are
        given.

    Raises:
        TypeError, ValueError: For images as :func:`~helpers.evaluation.features.as_bytes` refuses them, fewer than two
            a block or than k + 2, labels that do not fit, or features that are not the reference's.
        ModuleNotFoundError: If an optional package is missing.
    """
    images = as_bytes(images)
    if labels is not None and labels.shape != (len(images),):
        raise ValueError(f"expected {len(images)} labels, one for each image, got shape {tuple(labels.shape)}")
    protocol.check_number(len(images))
    if isinstance(reference, str):
        reference = load_reference(reference)
    if features is None:
        features = load_features(reference.info["name"])
    if features.name != reference.info["name"]:
        raise ValueError(f"expected features {reference.info['name']!r}, as the reference, got {features.name!r}")
    wanted = reference.info.get("features")
    if wanted is not None and features.describe() != dict(wanted):
        raise ValueError(f"expected features as the reference's, {dict(wanted)}, got {features.describe()}")
    result = evaluate_features(extract_features(features, images, batch_size), reference, protocol)
    if labels is not None:
        result["class_accuracy"] = class_accuracy(classifier or shipped_cifarnet(), images, labels, batch_size)
    return result
