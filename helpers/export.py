"""Models as ONNX graphs, which run where there is no Python: in a browser, on a phone.

What is exported is the network itself, in float32, for batches of any size. The few lines around it (preconditioning,
guidance, the sampler's steps) stay outside, where they can be changed:

==================  ========================================================  ===========================
kind of model       inputs                                                    output
==================  ========================================================  ===========================
discrete diffusion  ``x`` (B, C, H, W), ``t`` (B,) as floats                  ``prediction``: ε̂
continuous noise    ``x`` = c_in · noisy image, ``t`` = c_noise (B,), and     ``prediction``: F
                    ``label`` (B,) int64 if there are classes
energy              ``x``, ``t`` = σ if it is conditional on noise, and       ``energy`` (B,)
                    ``label`` (B,) int64 if there are classes
classifier          ``x``                                                     ``logits`` (B, K)
==================  ========================================================  ===========================

The file's metadata hold what is needed around the network: the kind, the shape, σ_data, the card's hash of the weights.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import generation, training
from .diffusion import EDMPrecond
from .energy import InnerProductEnergy

__all__ = ["Graph", "export", "graph_of", "save"]

OPSET = 18
BATCH = (1, 4096)


class Graph(NamedTuple):
    """What is exported of a model.

    Attributes:
        kind: discrete, continuous, energy or classifier.
        network: Takes the inputs in order.
        inputs: Example inputs by name, a batch of two.
        output: Name of the output.
    """

    kind: str
    network: nn.Module
    inputs: dict[str, Tensor]
    output: str


def graph_of(model: nn.Module, card: Mapping[str, Any]) -> Graph:
    """The part of a model that is exported, and inputs that it takes.

    Args:
        model: As :func:`helpers.zoo.load` gives it.
        card: Its card.
    """
    x, t = torch.zeros(2, *card["shape"]), torch.ones(2)
    label = {"label": torch.zeros(2, dtype=torch.int64)} if generation.n_classes(card) else {}
    if isinstance(model, InnerProductEnergy):
        return Graph("energy", model, {"x": x, "t": t, **label}, "energy")
    if generation.is_energy(card):
        return Graph("energy", model, {"x": x}, "energy")
    if isinstance(model, EDMPrecond):
        return Graph("continuous", model.network, {"x": x, "t": t, **label}, "prediction")
    if card.get("schedule"):
        return Graph("discrete", model, {"x": x, "t": t}, "prediction")
    return Graph("classifier", model, {"x": x}, "logits")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports each of its passes; what matters of it raises."""
    log = logging.getLogger("onnxscript")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def export(model: nn.Module, card: Mapping[str, Any]) -> Any:
    """A model as an ``onnx.ModelProto``.

    Args:
        model: As :func:`helpers.zoo.load` gives it.
        card: Its card.

    Returns:
        The graph with its weights, checked.

    Raises:
        ImportError: If the extra ``export`` is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch needs it, and says so less clearly)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is missing: install the extra, pip install '.[export]'") from error
    graph = graph_of(model, card)
    batch = torch.export.Dim("batch", min=BATCH[0], max=BATCH[1])
    with _quiet():
        program = torch.onnx.export(
            graph.network.eval(),
            tuple(graph.inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=tuple({0: batch} for _ in graph.inputs),
            input_names=list(graph.inputs),
            output_names=[graph.output],
            verbose=False,
        )
    proto = program.model_proto
    for node in proto.graph.node:  # where in the Python a node comes from: of no use elsewhere, and full of paths
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    proto.producer_version = ""
    about = {"kind": graph.kind, "name": card["name"], "shape": card["shape"], "sha256": card.get("sha256", "")}
    if around := card["architecture"].get("preconditioning"):
        about["sigma_data"] = around["sigma_data"]
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in about.items()})
    onnx.checker.check_model(proto)
    return proto


def save(model: nn.Module, card: Mapping[str, Any], path: str | Path) -> Path:
    """Write a model as an ONNX file, whole or not at all.

    Args:
        model: As :func:`helpers.zoo.load` gives it.
        card: Its card.
        path: The ``.onnx`` file; its folder is made if it is missing.

    Raises:
        ValueError: If the path does not end in ``.onnx`` or is a folder.
        ImportError: If the extra ``export`` is not installed.
        OSError: If it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"expected a file that ends in .onnx, got {path}")
    if path.is_dir():
        raise ValueError(f"expected a file, got the folder {path}")
    training.write_atomically(path, export(model, card).SerializeToString())
    return path
