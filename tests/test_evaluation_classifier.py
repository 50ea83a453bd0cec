"""CIFARNet, its augmentation and loss, and class accuracy."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import data, training
from helpers.evaluation import augment, class_accuracy, classifier_loss, predict_classes
from helpers.nn.cifarnet import CIFARNet


def random_bytes(n: int, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ── the network ───────────────────────────────────────────────────────────


def test_size_of_the_standard_network() -> None:
    network = CIFARNet()
    assert 1.1e6 < sum(p.numel() for p in network.parameters()) < 1.3e6
    assert network.n_features == 256 == network.head.in_features
    operations = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal operations
        operations += 2 * module.weight.numel() * output[0, 0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert 0.15e9 < operations < 0.2e9


def test_memory_format_and_bfloat16_keep_the_answer() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CIFARNet(widths=(8, 16, 16, 32)).eval()
    x = data.from_uint8(random_bytes(3))
    expected = network(x)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network(x) - expected).abs().max() < 0.05 * expected.abs().max()


def test_each_parameter_gets_a_gradient() -> None:
    network = CIFARNet(widths=(8, 8, 8, 8))
    F.cross_entropy(network(data.from_uint8(random_bytes(4))), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_network_names_what_it_wants() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\), got \(2, 1, 32, 32\)"):
        CIFARNet(widths=(8, 8, 8, 8))(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match="four positive widths"):
        CIFARNet(widths=(8, 8))


# ── augmentation ──────────────────────────────────────────────────────────


def test_augmented_images_are_windows_of_the_reflected_image() -> None:
    """Each is one of the (2·2 + 1)²·2 possible ones, cut out of PyTorch's own reflection padding."""
    x = random_bytes(40, size=6)
    moved = augment(x, generator(), shift=2)
    assert moved.shape == x.shape
    assert moved.dtype == torch.uint8
    padded = F.pad(x.float(), (2, 2, 2, 2), mode="reflect").byte()
    seen = set()
    for before, after in zip(padded, moved, strict=True):
        matches = [
            (i, j, flip)
            for i in range(5)
            for j in range(5)
            for flip in (False, True)
            for window in [before[:, i : i + 6, j : j + 6]]
            if torch.equal(window.flip(2) if flip else window, after)
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len({flip for *_, flip in seen}) == 2
    assert len({i for i, *_ in seen}) == len({j for _, j, _ in seen}) == 5


def test_half_are_mirrored_and_the_seed_decides() -> None:
    x = torch.arange(4, dtype=torch.uint8).expand(4000, 1, 4, 4)
    moved = augment(x, generator(), shift=0)
    mirrored = (moved[:, 0, 0, 0] == 3).double().mean()
    assert abs(mirrored - 0.5) < 4 * 0.5 / 4000**0.5
    assert torch.equal(moved, augment(x, generator(), shift=0))
    assert not torch.equal(moved, augment(x, generator(1), shift=0))


def test_augmentation_names_what_it_wants() -> None:
    with pytest.raises(ValueError, match="shift from 0 to 31, got 32"):
        augment(random_bytes(2), generator(), shift=32)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        augment(random_bytes(2)[0], generator())


# ── loss and accuracy ─────────────────────────────────────────────────────


class BrightestChannel(nn.Module):
    """Knows three classes: red, green and blue."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def coloured(n: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 3
    images = random_bytes(n) // 4
    images[torch.arange(n), labels] += 128
    return images, labels


def test_the_loss_by_hand() -> None:
    images, labels = coloured(9)
    index = torch.tensor([4, 0, 8, 4])
    loss = classifier_loss(images, labels, label_smoothing=0.3)(BrightestChannel(), index, generator())
    logits = data.from_uint8(augment(images[index], generator(), 4)).mean((2, 3)).log_softmax(1)
    target = 0.7 * F.one_hot(labels[index], 3) + 0.1
    torch.testing.assert_close(loss, -(target * logits).sum(1).mean())


def test_the_loss_names_what_it_wants() -> None:
    images, labels = coloured(6)
    with pytest.raises(TypeError, match="uint8 images and int64 labels"):
        classifier_loss(data.from_uint8(images), labels)
    with pytest.raises(ValueError, match="as many labels as images, got 5 and 6"):
        classifier_loss(images, labels[:5])


def test_accuracy_counts_what_the_label_says() -> None:
    images, labels = coloured(12)
    network = BrightestChannel().eval()
    assert torch.equal(predict_classes(network, images, batch_size=5), labels)
    assert class_accuracy(network, data.from_uint8(images), labels) == 1.0
    wrong = labels.clone()
    wrong[:3] = (wrong[:3] + 1) % 3
    assert class_accuracy(network, images, wrong) == 0.75


def test_a_mirror_image_has_its_class() -> None:
    network = CIFARNet(widths=(8, 8, 8, 8)).eval()
    images = random_bytes(20)
    assert torch.equal(predict_classes(network, images), predict_classes(network, images.flip(3)))


class Elsewhere(nn.Module):
    """A network whose weights are on a device without numbers: it checks where pictures come, and knows red."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        assert x.device == self.weight.device
        return torch.eye(3)[:1].expand(len(x), 3)


def test_pictures_go_where_the_network_is_and_classes_come_back() -> None:
    images, labels = coloured(12)
    network = Elsewhere().eval()
    assert torch.equal(predict_classes(network, images, batch_size=5), torch.zeros(12, dtype=torch.long))
    assert class_accuracy(network, images, labels) == pytest.approx(1 / 3)
    loss = classifier_loss(images, labels)(CIFARNet(3, widths=(8, 8, 8, 8)).to("meta"), torch.arange(4), generator())
    assert loss.device.type == "meta"  # and PyTorch refuses to mix devices


def test_accuracy_names_what_it_wants() -> None:
    images, labels = coloured(6)
    with pytest.raises(ValueError, match="evaluation mode"):
        class_accuracy(BrightestChannel(), images, labels)
    with pytest.raises(ValueError, match="labels"):
        class_accuracy(BrightestChannel().eval(), images, labels[:5])
    with pytest.raises(ValueError, match="N >= 1"):
        class_accuracy(BrightestChannel().eval(), images[:0], labels[:0])


def test_it_learns_colours_in_the_course_s_own_loop() -> None:
    images, labels = coloured(48)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CIFARNet(3, widths=(8, 8, 8, 16))
    config = training.TrainingConfig(15, 16, 5e-3, decay="cosine", ema_half_life=None)
    result = training.train(network, classifier_loss(images, labels), torch.arange(48), config, progress=False)
    assert result.losses[-1] < 0.6 * result.losses[0]
    assert class_accuracy(network.eval(), *coloured(30)) > 0.9


@pytest.mark.skipif("CIFAR10_DIR" not in os.environ, reason="needs CIFAR-10: set CIFAR10_DIR")
def test_real_images_pass_through_the_loss() -> None:
    cifar10 = data.cifar10()
    loss = classifier_loss(cifar10.train, cifar10.train_labels)
    network = CIFARNet(widths=(8, 8, 8, 8))
    assert 2.0 < loss(network, torch.arange(64), generator()).item() < 3.0
