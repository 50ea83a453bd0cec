"""References that ship, the one function for tables, and the scale of its numbers."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from helpers import data
from helpers.evaluation import (
    PROTOCOL,
    Features,
    Protocol,
    Reference,
    available_references,
    blur,
    build_reference,
    calibrate,
    data_copying,
    evaluate_images,
    extract_features,
    feature_statistics,
    frechet_distance,
    jpeg,
    kernel_distance,
    linear_probe,
    load_features,
    load_reference,
    precision_recall,
    save_reference,
    uniform_noise,
)
from helpers.evaluation.references import FOLDER
from helpers.evaluation.references.__main__ import main

HAS_DATA = pytest.mark.skipif("CIFAR10_DIR" not in os.environ, reason="needs CIFAR-10: set CIFAR10_DIR")


class Patches(Features):
    """Means over 8×8 patches: features that cost nothing."""

    name = "patches"
    label = "FD-patches"
    n_features = 48
    protocol = "means over 8x8 patches, bytes/10"

    def embed(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.float() / 10, 8).flatten(1)


def pictures(n: int, seed: int) -> Tensor:
    """Bytes with structure: smooth random images."""
    x = torch.randn(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return data.to_uint8(nn.functional.interpolate(x, size=32, mode="bilinear") * 0.5)


@pytest.fixture(scope="module")
def built() -> tuple[Reference, dict[str, Tensor]]:
    return build_reference(
        Patches(), pictures(400, 0), pictures(300, 1), data="made up", command="none", n_reduced=200, dimensions=12
    )


# ── building, storing, loading ────────────────────────────────────────────


def test_a_reference_holds_what_it_was_made_from(built: tuple[Reference, dict[str, Tensor]]) -> None:
    reference = built[0]
    x = extract_features(Patches(), pictures(400, 0))
    exact = feature_statistics(x)
    torch.testing.assert_close(reference.statistics.mean, exact.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(reference.statistics.covariance, exact.covariance, rtol=1e-3, atol=1e-7)
    assert torch.equal(reference.statistics.covariance, reference.statistics.covariance.T)
    assert reference.statistics.n == 400
    torch.testing.assert_close(reference.held_out, reference.reduce(x[:200]), rtol=1e-3, atol=1e-4)
    train = reference.reduce(extract_features(Patches(), pictures(300, 1)))
    assert (reference.train - train).abs().max() <= 0.51 * train.abs().max() / 127


def test_the_projection_keeps_distances_on_average(built: tuple[Reference, dict[str, Tensor]]) -> None:
    """Orthogonal directions, all of length √(F/D); chance alone decides them, so no direction is left out for long."""
    reference = built[0]
    p = reference.projection.double()
    torch.testing.assert_close(p.T @ p, 4 * torch.eye(12).double(), rtol=0, atol=1e-5)
    x = torch.randn(200, 48, generator=torch.Generator().manual_seed(5)).double()
    ratio = reference.reduce(x).double().sub(reference.reduce(x[:1]).double())[1:].square().sum(1)
    ratio = ratio / (x - x[0])[1:].square().sum(1)
    assert abs(ratio.mean() - 1) < 0.15
    assert ratio.std() < 0.5


def test_it_comes_back_from_its_file(built: tuple[Reference, dict[str, Tensor]], tmp_path: Path) -> None:
    reference, tensors = built
    path = save_reference(tmp_path, reference, tensors)
    loaded = load_reference("patches", tmp_path)
    for name in ("projection", "held_out", "train"):
        assert torch.equal(getattr(loaded, name), getattr(reference, name))
    assert torch.equal(loaded.statistics.covariance, reference.statistics.covariance)
    assert loaded.info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (
        loaded.info["data_sha256"]["test"]
        == hashlib.sha256(pictures(400, 0).permute(0, 2, 3, 1).contiguous().numpy().tobytes()).hexdigest()
    )
    assert loaded.info["features"]["protocol"] == Patches.protocol
    assert loaded.info["distance_moved_by_storage"] < 1e-3


def test_building_twice_gives_the_same_bytes(built: tuple[Reference, dict[str, Tensor]]) -> None:
    again = build_reference(
        Patches(), pictures(400, 0), pictures(300, 1), data="made up", command="none", n_reduced=200, dimensions=12
    )
    assert safetensors.torch.save(again[1]) == safetensors.torch.save(built[1])


def test_files_that_do_not_belong_together_are_refused(
    built: tuple[Reference, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = save_reference(tmp_path, *built)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256 differs"):
        load_reference("patches", tmp_path)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ValueError, match="does not describe a reference"):
        load_reference("patches", tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="does not describe a reference"):
        load_reference("patches", tmp_path)
    with pytest.raises(ValueError, match="expected a reference out of patches, got 'vgg'"):
        load_reference("vgg", tmp_path)


@pytest.mark.parametrize("change", [{"dimensions": 49}, {"n_reduced": 0}, {"n_reduced": 401}, {"dimensions": 0}])
def test_building_names_what_it_wants(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"the 400 images .* the 48 features, got"):
        build_reference(Patches(), pictures(400, 0), **({"n_reduced": 200, "dimensions": 12} | change))
    with pytest.raises(ValueError, match="two at least"):
        build_reference(Patches(), pictures(1, 0), n_reduced=1, dimensions=12)


def test_other_features_are_refused_by_the_projection(built: tuple[Reference, dict[str, Tensor]]) -> None:
    with pytest.raises(ValueError, match=r"shape \(N, 48\), got \(3, 7\)"):
        built[0].reduce(torch.zeros(3, 7))


# ── the row of a table ────────────────────────────────────────────────────


def test_a_row_is_made_of_the_measures(built: tuple[Reference, dict[str, Tensor]]) -> None:
    reference, x = built[0], pictures(250, 2)
    row = evaluate_images(x, reference, features=Patches())
    features = extract_features(Patches(), x)
    reduced = reference.reduce(features)
    kernel = kernel_distance(reduced, reference.held_out, 10)
    assert row == {
        "features": "patches",
        "label": "FD-patches",
        "n": 250,
        "n_reference": 400,
        "frechet_distance": frechet_distance(feature_statistics(features), reference.statistics),
        "kernel_distance": kernel.value,
        "kernel_distance_error": kernel.standard_error,
        **precision_recall(reference.held_out, reduced, 5),
        "data_copying": data_copying(reduced, reference.train, reference.held_out),
    }
    assert json.loads(json.dumps(row)) == row
    assert row == evaluate_images(data.from_uint8(x), reference, features=Patches(), batch_size=7)


def test_it_tells_good_from_bad(built: tuple[Reference, dict[str, Tensor]]) -> None:
    reference = built[0]
    good = evaluate_images(pictures(200, 3), reference, features=Patches())
    noise = evaluate_images(uniform_noise(200, torch.Generator().manual_seed(0)), reference, features=Patches())
    copies = evaluate_images(pictures(300, 1), reference, features=Patches())
    assert good["frechet_distance"] < 0.2 * noise["frechet_distance"]
    dark = evaluate_images(pictures(200, 3) // 2, reference, features=Patches())
    assert abs(good["kernel_distance"]) < 4 * good["kernel_distance_error"]
    assert dark["kernel_distance"] > 4 * dark["kernel_distance_error"]
    assert good["recall"] > 0.5 > 0.1 > noise["recall"]
    assert copies["data_copying"] > 0.99
    assert 0.35 < good["data_copying"] < 0.65


def test_only_so_many_images_enter_the_neighbours(built: tuple[Reference, dict[str, Tensor]]) -> None:
    few = Protocol(k=3, n_neighbours=50, n_blocks=5)
    x = pictures(120, 4)
    row = evaluate_images(x, built[0], features=Patches(), protocol=few)
    part = built[0].reduce(extract_features(Patches(), x[:50]))
    assert row["coverage"] == precision_recall(built[0].held_out, part, 3)["coverage"]
    assert row["n"] == 120
    assert Protocol() == PROTOCOL


def test_labels_add_the_class_accuracy(built: tuple[Reference, dict[str, Tensor]]) -> None:
    class Colours(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    x = pictures(60, 5)
    labels = data.from_uint8(x).mean((2, 3)).argmax(1)
    labels[:15] = (labels[:15] + 1) % 3
    row = evaluate_images(x, built[0], features=Patches(), labels=labels, classifier=Colours().eval())
    assert row["class_accuracy"] == 0.75


def test_a_table_names_what_it_wants(
    built: tuple[Reference, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = built[0]
    with pytest.raises(ValueError, match="at least 20 images, got 19"):
        evaluate_images(pictures(19, 0), reference, features=Patches())
    with pytest.raises(ValueError, match="30 labels"):
        evaluate_images(pictures(30, 0), reference, features=Patches(), labels=torch.zeros(29))
    with pytest.raises(ValueError, match="2x - 1"):
        evaluate_images(pictures(30, 0).float() / 255, reference, features=Patches())
    with pytest.raises(ValueError, match="expected a reference out of"):
        evaluate_images(pictures(30, 0), "nonsense", features=Patches())
    other = Patches()
    other.name = "other"
    with pytest.raises(ValueError, match="expected features 'patches', as the reference, got 'other'"):
        evaluate_images(pictures(30, 0), reference, features=other)
    other = Patches()
    other.bf16 = True  # numbers for a table are made in float32
    with pytest.raises(ValueError, match=r"expected features as the reference's, .*got .*bfloat16"):
        evaluate_images(pictures(30, 0), reference, features=other)
    monkeypatch.setitem(sys.modules, "prdc", None)
    with pytest.raises(ModuleNotFoundError, match="pip install prdc"):
        evaluate_images(pictures(30, 0), reference, features=Patches())


# ── the scale ─────────────────────────────────────────────────────────────


def test_damages_damage() -> None:
    x = pictures(8, 0)
    for damaged in (jpeg(x, 30), blur(x, 1.0)):
        assert (damaged.shape, damaged.dtype) == (x.shape, torch.uint8)
        assert not torch.equal(damaged, x)
    errors = [(jpeg(x, quality).float() - x.float()).square().mean() for quality in (90, 50, 10)]
    assert errors == sorted(errors)
    point = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    point[..., 16, 16] = 255
    spread = blur(point, 1.0)[0, 0].double()
    place = torch.arange(32).double() - 16
    variance = (spread.sum(0) * place**2).sum() / spread.sum()
    assert 0.7 < variance < 1.3, "a standard deviation of about a pixel"
    with pytest.raises(ValueError, match="quality from 1 to 95"):
        jpeg(x, 0)
    with pytest.raises(ValueError, match="radius > 0"):
        blur(x, 0)


def test_the_scale_has_its_rows(built: tuple[Reference, dict[str, Tensor]]) -> None:
    train = pictures(300, 1)
    rows = calibrate(Patches(), built[0], train, n=300)
    assert [row["n"] for row in rows] == [300, 150, 60, 150, 150, 150]
    half = feature_statistics(extract_features(Patches(), train[:150]))
    assert rows[1]["frechet_distance"] == frechet_distance(half, built[0].statistics)
    assert rows[0]["frechet_distance"] < rows[1]["frechet_distance"] < rows[2]["frechet_distance"]
    assert rows[-1]["frechet_distance"] == max(row["frechet_distance"] for row in rows)
    row = evaluate_images(train[:150], built[0], features=Patches())
    assert rows[1] == {"images": "training images 0 to 149"} | {key: row[key] for key in rows[1] if key != "images"}
    assert set(row) - set(rows[1]) == {"features", "label", "n_reference"}
    with pytest.raises(ValueError, match="n from 100 to 300"):
        calibrate(Patches(), built[0], train, n=301)


# ── what ships ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", available_references())
def test_what_ships_is_whole(name: str) -> None:
    reference = load_reference(name)
    info = reference.info
    assert info["name"] == name
    assert reference.statistics.n == 10_000
    assert tuple(reference.held_out.shape) == (5000, 64)
    assert info["data_sha256"]["test"] == "6db3848633d3ce81dfc7e500088864fff13c27a653edf639a6aac9de460606b9"
    assert info["distance_moved_by_storage"] < 0.01
    assert info["command"].startswith(f"python -m helpers.evaluation.references build {name}")
    assert float(torch.linalg.eigvalsh(reference.statistics.covariance).min()) > -1e-2
    p = reference.projection.double()
    features = info["features"]["n_features"]
    torch.testing.assert_close(p.T @ p, features / 64 * torch.eye(64).double(), rtol=0, atol=1e-4)
    # The held-out rows are part of the reference set: their spread along an axis is its variance there.
    variance = (p.T @ reference.statistics.covariance @ p).diag()
    torch.testing.assert_close(reference.held_out.double().var(0), variance, rtol=0.1, atol=0)


def test_what_ships_is_small() -> None:
    assert "effnetlite0" in available_references()
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 8e6


def test_the_shipped_scale_is_that_of_the_protocol() -> None:
    """The values that this protocol is known to give, from another run on another day."""
    card = json.loads((FOLDER / "calibration-effnetlite0.json").read_text("utf-8"))
    assert card["linear_probe"]["test_accuracy"] > 0.84
    distances = [row["frechet_distance"] for row in card["rows"]]
    assert [row["n"] for row in card["rows"]] == [10_000, 5000, 2000, 5000, 5000, 5000]
    for got, known, tolerance in zip(
        distances, [20.5, 30.7, 63.8, 75, 169, 1110], [0.01] * 3 + [0.04] * 3, strict=True
    ):
        assert got == pytest.approx(known, rel=tolerance)


# ── the command ───────────────────────────────────────────────────────────


def test_the_command_reports_errors_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(root: object = None) -> None:
        raise FileNotFoundError("no CIFAR-10 here")

    monkeypatch.setattr(data, "cifar10", nowhere, raising=False)
    assert main(["build", "effnetlite0", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: no CIFAR-10 here\n"
    with pytest.raises(SystemExit):
        main(["build", "vgg"])


@HAS_DATA
def test_real_images_against_the_shipped_reference() -> None:
    """Two hundred test images in the shipped features: what the reference says of them is what comes out anew."""
    cifar10, features = data.cifar10(), load_features("effnetlite0")
    reference = load_reference("effnetlite0")
    x = extract_features(features, cifar10.test[:200], 100)
    torch.testing.assert_close(reference.reduce(x), reference.held_out[:200], rtol=2e-2, atol=2e-2)
    y = extract_features(features, cifar10.train[:200], 100)
    accuracy = linear_probe(x, cifar10.test_labels[:200], y, cifar10.train_labels[:200], ridge=1.0)
    assert accuracy > 0.5, "200 images suffice for that, in good features"
