"""Train and use classifiers: augmentation, the loss for the training loop, accuracy.

A classifier serves twice: its features measure distances between sets of images, and its decisions tell whether
class-conditional samples show the class that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import from_uint8

__all__ = ["augment", "class_accuracy", "classifier_loss", "predict_classes"]


def augment(images: Tensor, generator: torch.Generator, shift: int = 4) -> Tensor:
    """Mirror half of the images and move each by up to ``shift`` pixels; what enters is a reflection of the border.

    Args:
        images: (B, C, H, W), any dtype.
        generator: Source of the randomness.
        shift: Largest translation along each axis, below H and W; 0 for none.

    Returns:
        The same shape and dtype, in channels-last memory.

    Raises:
        ValueError: If the images have another shape, or the shift does not fit.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images of shape (B, C, H, W), got {tuple(images.shape)}")
    n, _, height, width = images.shape
    if not 0 <= shift < min(height, width):
        raise ValueError(f"expected a shift from 0 to {min(height, width) - 1}, got {shift}")
    offset = torch.randint(-shift, shift + 1, (2, n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    rows, columns = (_reflect(torch.arange(size) + o, size) for size, o in zip((height, width), offset, strict=True))
    columns = torch.where(mirrored, columns.flip(1), columns)
    picked = images[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return picked.permute(0, 3, 1, 2)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Positions outside 0 … size − 1 to their mirror images inside."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def classifier_loss(
    images: Tensor, labels: Tensor, *, label_smoothing: float = 0.1, shift: int = 4
) -> Callable[[nn.Module, Tensor, torch.Generator], Tensor]:
    """The loss for :func:`helpers.training.train`, whose examples are then *indices* into the data.

    Cross-entropy with smoothed labels (Szegedy et al. 2016, arXiv:1512.00567, section 7) on augmented images.

    Args:
        images: uint8 (N, 3, H, W).
        labels: int64 (N,).
        label_smoothing: Share of the target that is spread over all classes.
        shift: See :func:`augment`.

    Returns:
        ``loss(network, index, generator)``: a scalar in float32, also under bfloat16 autocast, on the network's device.

    Raises:
        TypeError: If the images are not uint8 or the labels not int64.
        ValueError: If there are not equally many of both.

    Example:
        >>> images, labels = torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.arange(8)
        >>> loss = classifier_loss(images, labels)
        >>> blank = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).requires_grad_(False)
        >>> _ = nn.init.zeros_(blank[1].weight), nn.init.zeros_(blank[1].bias)
        >>> round(loss(blank, torch.arange(4), torch.Generator()).exp().item(), 3)  # knows nothing: ten classes
        10.0
    """
    if images.dtype != torch.uint8 or labels.dtype != torch.int64:
        raise TypeError(f"expected uint8 images and int64 labels, got {images.dtype} and {labels.dtype}")
    if len(images) != len(labels):
        raise ValueError(f"expected as many labels as images, got {len(labels)} and {len(images)}")

    def loss(network: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        x, target = from_uint8(augment(images[index], generator, shift)), labels[index]
        device = _device_of(network, x)
        return F.cross_entropy(network(x.to(device)).float(), target.to(device), label_smoothing=label_smoothing)

    return loss


def _device_of(network: nn.Module, otherwise: Tensor) -> torch.device:
    return next(network.parameters(), otherwise).device


@torch.no_grad()
def predict_classes(network: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """The likeliest class of each image, from the mean of the logits of the image and its mirror image.

    Args:
        network: (B, 3, H, W) in [−1, 1] → logits (B, K), in evaluation mode.
        images: uint8, or floats in [−1, 1]; (N, 3, H, W).
        batch_size: Images at a time.

    Returns:
        int64 (N,), on the device of the images, wherever the network is.

    Raises:
        ValueError: If the network is in training mode.
    """
    if network.training:
        raise ValueError("expected the classifier in evaluation mode: call .eval() first")
    classes, device = [], _device_of(network, images)
    for batch in images.split(batch_size):
        x = (from_uint8(batch) if batch.dtype == torch.uint8 else batch).to(device)
        classes.append((network(x) + network(x.flip(3))).argmax(1).to(images.device))
    return torch.cat(classes) if classes else torch.empty(0, dtype=torch.long)


def class_accuracy(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> float:
    """Share of images that the classifier takes for what their label says.

    For class-conditional samples this is the *class accuracy*: compare it with the classifier's accuracy on test
    images, which is what perfect samples would reach.

    Args:
        network: See :func:`predict_classes`.
        images: uint8, or floats in [−1, 1]; (N, 3, H, W).
        labels: int64 (N,): the classes that are shown, or were asked for.
        batch_size: Images at a time.

    Raises:
        ValueError: If there are no images, or not as many labels, or the network is in training mode.
    """
    if len(images) == 0 or labels.shape != (len(images),):
        raise ValueError(f"expected labels (N,) of N >= 1 images, got {tuple(labels.shape)} and {len(images)} images")
    return (predict_classes(network, images, batch_size) == labels).double().mean().item()
