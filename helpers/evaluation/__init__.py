"""How good are the images of a model? Distances between features, each with its floor, its scale and its N.

* :mod:`~helpers.evaluation.features`: the spaces in which images are compared.
* :mod:`~helpers.evaluation.frechet`, :mod:`~helpers.evaluation.kernel`: distances between sets.
* :mod:`~helpers.evaluation.neighbours`: precision, recall, density, coverage; copies of training images.
* :mod:`~helpers.evaluation.probe`, :mod:`~helpers.evaluation.calibration`: are the features any good, and what does a
  number mean?
* :mod:`~helpers.evaluation.classifier`: classifiers, and whether samples show the class that was asked for.
* :mod:`~helpers.evaluation.references`: features of real images that ship.
* :func:`evaluate_images`: all of it at once, for a table.
"""

from .calibration import blur, calibrate, jpeg, uniform_noise
from .classifier import augment, class_accuracy, classifier_loss, predict_classes
from .features import (
    FEATURES,
    CIFARNetFeatures,
    EffNetLite0Features,
    Features,
    InceptionFeatures,
    as_bytes,
    load_features,
    shipped_cifarnet,
)
from .frechet import (
    FeatureStatistics,
    extract_features,
    feature_statistics,
    frechet_at_infinity,
    frechet_distance,
)
from .kernel import KernelDistance, kernel_distance, polynomial_kernel, unbiased_mmd2
from .neighbours import Neighbours, data_copying, nearest_neighbours, precision_recall
from .probe import linear_probe
from .references import Reference, available_references, build_reference, load_reference, save_reference
from .report import PROTOCOL, Protocol, evaluate_features, evaluate_images

__all__ = [
    "FEATURES",
    "PROTOCOL",
    "CIFARNetFeatures",
    "EffNetLite0Features",
    "FeatureStatistics",
    "Features",
    "InceptionFeatures",
    "KernelDistance",
    "Neighbours",
    "Protocol",
    "Reference",
    "as_bytes",
    "augment",
    "available_references",
    "blur",
    "build_reference",
    "calibrate",
    "class_accuracy",
    "classifier_loss",
    "data_copying",
    "evaluate_features",
    "evaluate_images",
    "extract_features",
    "feature_statistics",
    "frechet_at_infinity",
    "frechet_distance",
    "jpeg",
    "kernel_distance",
    "linear_probe",
    "load_features",
    "load_reference",
    "nearest_neighbours",
    "polynomial_kernel",
    "precision_recall",
    "predict_classes",
    "save_reference",
    "shipped_cifarnet",
    "unbiased_mmd2",
    "uniform_noise",
]
