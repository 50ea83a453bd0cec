"""Tests of helpers.export: graphs that answer like the models that they were made of, and the files that hold them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import export, zoo
from helpers.__main__ import main
from helpers.diffusion import EDMPrecond
from helpers.energy import InnerProductEnergy
from helpers.nn import EnergyCNN, FastUNet, ImageMLP

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ATOL = 5e-5
"""On answers of size 1, in float32: the same sums in other orders. Larger answers are measured in their size."""

SHIPPED = ("digits-ddpm", "digits-energy", "digits-classifier", "cifar10-edm", "cifar10-energy")


def card_of(name: str, shape: tuple[int, ...], arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    architecture = {"name": name, "arguments": arguments or {}}
    return {"name": "untrained", "shape": shape, "architecture": architecture, "schedule": None}


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights everywhere, so that nothing answers 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def untrained() -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
    """Kinds of models that do not ship."""
    small = {"channels": (64, 64), "blocks": (1, 1, 1, 1), "emb_channels": 32}
    precond = {"preconditioning": {"name": "EDM", "sigma_data": 0.5}}
    cnn, plain = card_of("EnergyCNN", (1, 8, 8)), card_of("FastUNet", (3, 16, 16))
    plain["architecture"] |= precond
    mlp = card_of("ImageMLP", (1, 4, 4))
    mlp["architecture"] |= {**precond, "energy": "inner-product"}
    return {
        "an energy without noise levels": (shaken(EnergyCNN(1, 8, 8)), cnn),
        "a denoiser without classes": (shaken(EDMPrecond(FastUNet(**small))), plain),
        "an energy of noisy pictures": (shaken(InnerProductEnergy(ImageMLP((1, 4, 4), 16))), mlp),
    }


def session(proto: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options)


def inputs_like(graph: export.Graph, n: int, seed: int) -> dict[str, torch.Tensor]:
    """Pictures, times that make sense for the kind, and classes."""
    generator = torch.Generator().manual_seed(seed)
    found = {"x": torch.randn(n, *graph.inputs["x"].shape[1:], generator=generator)}
    if "t" in graph.inputs:
        low, high = {"discrete": (0.0, 999.0), "continuous": (-1.5, 1.1), "energy": (0.05, 5.0)}[graph.kind]
        found["t"] = low + (high - low) * torch.rand(n, generator=generator)
    if "label" in graph.inputs:
        found["label"] = torch.randint(0, 11, (n,), generator=generator)
    return found


def check(model: torch.nn.Module, card: dict[str, Any]) -> Any:
    """The graph, after its answers were compared with the model's for batches of several sizes."""
    proto, graph = export.export(model, card), export.graph_of(model, card)
    run = session(proto)
    assert [one.name for one in run.get_outputs()] == [graph.output]
    for n in (1, 2, 5):
        given = inputs_like(graph, n, seed=n)
        [answer] = run.run(None, {key: value.numpy() for key, value in given.items()})
        with torch.no_grad():
            expected = graph.network(*given.values()).numpy()
        assert answer.shape == expected.shape
        np.testing.assert_allclose(answer, expected, rtol=2e-5, atol=ATOL * max(1, np.abs(expected).max()))
    return proto


@pytest.mark.parametrize("name", SHIPPED)
def test_the_graph_answers_like_the_model(name: str) -> None:
    card = zoo.card(name)
    proto = check(zoo.load(name), card)
    about = {prop.key: prop.value for prop in proto.metadata_props}
    assert about["name"] == name
    assert about["sha256"] == card["sha256"]
    assert json.loads(about["shape"]) == card["shape"]
    assert about.get("sigma_data") == (
        str(card["architecture"]["preconditioning"]["sigma_data"])
        if "preconditioning" in card["architecture"]
        else None
    )
    text = proto.SerializeToString()
    assert str(Path.home()).encode() + b"/" not in text  # nothing of the machine that exported it
    assert b"site-packages" not in text


@pytest.mark.parametrize("name", untrained())
def test_other_kinds_of_models(name: str) -> None:
    check(*untrained()[name])


def test_kinds() -> None:
    kinds = {name: export.graph_of(zoo.load(name), zoo.card(name)).kind for name in SHIPPED}
    assert list(kinds.values()) == ["discrete", "energy", "classifier", "continuous", "energy"]


# ── the command ───────────────────────────────────────────────────────────


def test_the_command_writes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "energy.onnx"
    assert main(["export", "digits-energy", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {out} (")
    assert [path.name for path in out.parent.iterdir()] == ["energy.onnx"]  # whole, and nothing beside it
    onnx.checker.check_model(str(out))


def test_without_out_it_takes_the_models_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "export", lambda model, card: onnx.ModelProto())
    assert main(["export", "digits-classifier"]) == 0
    assert (tmp_path / "digits-classifier.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "expected one of cifar10-ddpm, "),
        (["digits-energy", "--out", "energy.png"], "expected a file that ends in .onnx, got energy.png"),
        (["digits-energy", "--out", "."], "expected a file that ends in .onnx, got ."),
        (["nowhere.safetensors"], "no model card at nowhere.json"),
    ],
)
def test_wrong_input_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_folder_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.onnx").mkdir()
    assert main(["export", "digits-energy", "--out", str(tmp_path / "folder.onnx")]) == 2
    assert "expected a file, got the folder" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "digits-energy"]) == 2
    assert capsys.readouterr().err == "error: onnxscript is missing: install the extra, pip install '.[export]'\n"
