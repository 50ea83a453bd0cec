"""Tests of helpers.data: ranges, the split, bytes, folders of pictures and the 2-D distributions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.data import TOY_2D, central_square, digits, folder_bytes, from_uint8, image_folder, to_uint8, toy_2d
from helpers.oracle import eight_gaussians


def test_every_byte_makes_the_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    values = from_uint8(every)
    assert values.dtype == torch.float32
    assert (float(values[0]), float(values[255])) == (-1.0, 1.0)
    steps = values.double().diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 2 / 255), rtol=0, atol=1e-6)
    assert torch.equal(to_uint8(values), every)
    assert torch.equal(to_uint8(values.double()), every)


def test_bytes_are_clipped_and_rounded_to_nearest() -> None:
    values = torch.tensor([-7.0, -1.001, 1.001, 40.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1])
    assert to_uint8(values).tolist() == [0, 0, 255, 255, 0, 1]


def test_bytes_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected uint8 images, got torch\.float32"):
        from_uint8(torch.zeros(2))
    with pytest.raises(TypeError, match=r"floating-point images .*got torch\.uint8"):
        to_uint8(torch.zeros(2, dtype=torch.uint8))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite images"):
            to_uint8(torch.tensor([0.0, bad]))


# ── the digits ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_digits_are_images_in_range_with_a_black_background(size: int) -> None:
    split = digits(size)
    assert split.train.shape == (1438, 1, size, size)
    assert split.test.shape == (359, 1, size, size)
    assert split.train_labels.shape == (1438,)
    assert split.test_labels.shape == (359,)
    for images, labels in ((split.train, split.train_labels), (split.test, split.test_labels)):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert float(images.min()) >= -1 - 1e-6
        assert float(images.max()) <= 1 + 1e-6
        assert set(labels.tolist()) == set(range(10))
    assert float(split.train.min()) == -1.0
    assert float(split.train.max()) > 0.8


def test_digits_of_size_8_are_the_original_pixels_with_their_labels() -> None:
    source = load_digits()
    by_image: dict[bytes, set[int]] = {}
    for image, label in zip(source.images, source.target, strict=True):
        by_image.setdefault(image.astype(np.uint8).tobytes(), set()).add(int(label))
    split = digits(8)
    images, labels = torch.cat([split.train, split.test]), torch.cat([split.train_labels, split.test_labels])
    pixels = ((images[:, 0] + 1) * 8).numpy()
    assert np.array_equal(pixels, pixels.round())
    for image, label in zip(pixels.astype(np.uint8), labels.tolist(), strict=True):
        assert label in by_image[image.tobytes()]


def test_digits_split_is_deterministic_disjoint_and_complete() -> None:
    a, b = digits(8), digits(8)
    assert torch.equal(a.train, b.train)
    assert torch.equal(a.test_labels, b.test_labels)
    assert not torch.equal(digits(8, seed=1).test, a.test)
    # The set has no two equal pictures, so pictures can stand for their indices.
    train, test = ({image.numpy().tobytes() for image in part} for part in (a.train, a.test))
    assert (len(train), len(test)) == (1438, 359)
    assert not train & test


def test_digits_of_any_size_share_one_split() -> None:
    small, large = digits(8), digits(32)
    assert torch.equal(small.train_labels, large.train_labels)
    shrunk = torch.nn.functional.avg_pool2d(large.test, 4)
    correlation = torch.corrcoef(torch.stack([shrunk.flatten(), small.test.flatten()]))[0, 1]
    assert float(correlation) > 0.95


def test_digits_fraction_is_the_share_held_out() -> None:
    split = digits(8, test_fraction=0.5)
    assert abs(len(split.train) - len(split.test)) <= 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_digits_refuse_a_fraction_outside_the_unit_interval(fraction: float) -> None:
    with pytest.raises(ValueError, match="test_fraction"):
        digits(8, test_fraction=fraction)


def test_digits_refuse_a_size_below_one() -> None:
    with pytest.raises(ValueError, match="size >= 1, got 0"):
        digits(0)


# ── folders ───────────────────────────────────────────────────────────────


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path)


def colour(height: int, width: int, value: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_image_folder_crops_the_central_square(tmp_path: Path) -> None:
    wide = colour(8, 24, (255, 0, 0))
    wide[:, 8:16] = (0, 255, 0)  # the middle third is green
    save(tmp_path / "a_wide.png", wide)
    save(tmp_path / "b_tall.png", wide.transpose(1, 0, 2))
    images = image_folder(tmp_path, 4)
    assert images.shape == (2, 3, 4, 4)
    assert images.dtype == torch.float32
    expected = torch.tensor([-1.0, 1.0, -1.0])[:, None, None].expand(2, 3, 4, 4)
    torch.testing.assert_close(images, expected)


def test_image_folder_keeps_pixels_of_the_right_size_and_their_orientation(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    save(tmp_path / "x.png", pixels)
    torch.testing.assert_close(image_folder(tmp_path, 6)[0], from_uint8(torch.from_numpy(pixels).permute(2, 0, 1)))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_folder_reads_every_kind_of_picture(tmp_path: Path, mode: str, channels: int) -> None:
    save(tmp_path / "x.png", colour(8, 8, (255, 255, 255)), mode)
    images = image_folder(tmp_path, 8, channels)
    torch.testing.assert_close(images, torch.ones(1, channels, 8, 8))


def test_image_folder_makes_grey_out_of_colour_by_luminance(tmp_path: Path) -> None:
    for name, value in {"1_red": (255, 0, 0), "2_green": (0, 255, 0), "3_blue": (0, 0, 255)}.items():
        save(tmp_path / f"{name}.png", colour(4, 4, value))
    grey = (image_folder(tmp_path, 4, channels=1).mean((1, 2, 3)) + 1) / 2
    torch.testing.assert_close(grey, torch.tensor([0.299, 0.587, 0.114]), rtol=0, atol=3e-3)


def test_image_folder_searches_below_in_sorted_order_and_skips_other_files(tmp_path: Path) -> None:
    for number, name in enumerate(("b/2.PNG", "a.bmp", "c/d/3.jpg")):
        save(tmp_path / name, colour(4, 4, (100 * number, 0, 0)))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    red = image_folder(str(tmp_path), 4)[:, 0].mean((1, 2))
    torch.testing.assert_close(red, torch.tensor([100, 0, 200]) / 127.5 - 1, rtol=0, atol=0.02)


def test_image_folder_names_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder at .*nowhere: check the path, or create it"):
        image_folder(tmp_path / "nowhere", 8)


def test_image_folder_says_when_the_path_is_a_file(tmp_path: Path) -> None:
    save(tmp_path / "x.png", colour(4, 4, (0, 0, 0)))
    with pytest.raises(NotADirectoryError, match=r"expected a folder of pictures, got a file: .*x\.png"):
        image_folder(tmp_path / "x.png", 8)


def test_image_folder_says_which_endings_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.raises(FileNotFoundError, match=r"no pictures below .*\.png, \.jpg"):
        image_folder(tmp_path, 8)


@pytest.mark.parametrize("damage", ["text", "empty", "truncated"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_image_folder_names_the_picture_that_cannot_be_read(tmp_path: Path, damage: str, suffix: str) -> None:
    save(tmp_path / "good.png", colour(8, 8, (1, 2, 3)))
    bad = tmp_path / "sub" / f"bad.{suffix}"
    save(bad, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = bad.read_bytes()
    bad.write_bytes({"text": b"hello", "empty": b"", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(
        ValueError, match=rf"cannot read the picture .*bad\.{suffix} .*: remove it, or save it anew as PNG"
    ):
        image_folder(tmp_path, 8)


def test_image_folder_refuses_odd_numbers_of_channels_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="channels to be 1 or 3, got 4"):
        image_folder(tmp_path, 8, channels=4)
    with pytest.raises(ValueError, match="size >= 1, got 0"):
        image_folder(tmp_path, 0)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_folder_reads_16_bits_a_channel(tmp_path: Path, suffix: str, channels: int) -> None:
    """65,535 is 257 · 255: white stays white, and each byte b, stored as 257 b and a little, comes back."""
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    save(tmp_path / f"x.{suffix}", values * 257 + np.where(values < 255, 100, 0).astype(np.uint16))
    wanted = torch.arange(256, dtype=torch.uint8).reshape(16, 16).expand(1, channels, 16, 16)
    assert torch.equal(folder_bytes(tmp_path, 16, channels), wanted)


def test_image_folder_reads_16_bits_in_the_other_order_of_bytes_too(tmp_path: Path) -> None:
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes()).save(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as picture:
        assert picture.mode == "I;16B"
    assert torch.equal(folder_bytes(tmp_path, 16, 1)[0, 0].flatten(), torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
def test_image_folder_refuses_pixels_whose_range_no_one_knows(tmp_path: Path, mode: str, dtype: type) -> None:
    save(tmp_path / "depth.tif", np.full((8, 8), 40_000, dtype))
    with pytest.raises(
        ValueError, match=rf"the picture .*depth\.tif \(expected 8 or 16 bits a channel, got .* {mode},"
    ):
        image_folder(tmp_path, 8)


HIDDEN = 90


def half_transparent(mode: str) -> tuple[Image.Image, dict[str, object]]:
    """Left half black; right half of a hidden grey, transparent by a channel of its own or by its colour."""
    grey, alpha = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    grey[:, 4:], alpha[:, 4:] = HIDDEN, 0
    picture = Image.fromarray(grey)
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257), {"transparency": HIDDEN * 257}
    if mode in ("P", "PA"):
        picture = Image.frombytes("P", (8, 8), grey.tobytes())
        picture.putpalette([value for k in range(256) for value in (k, k, k)])
    if "A" not in mode:
        return picture.convert(mode), {"transparency": (HIDDEN,) * 3 if mode == "RGB" else HIDDEN}
    picture = picture.convert(mode)
    picture.putalpha(Image.fromarray(alpha))
    return picture, {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "RGB", "P", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_white_and_not_what_hides_there(tmp_path: Path, mode: str, channels: int) -> None:
    picture, options = half_transparent(mode)
    picture.save(tmp_path / "x.png", **options)
    with Image.open(tmp_path / "x.png") as stored:
        assert stored.mode == mode
    wanted = torch.zeros(1, channels, 8, 8, dtype=torch.uint8)
    wanted[..., 4:] = 255
    assert torch.equal(folder_bytes(tmp_path, 8, channels), wanted)
    in_memory, _ = half_transparent("PA")  # which PNG does not keep
    assert torch.equal(central_square(in_memory, 8, channels), wanted[0])


def test_half_transparent_is_half_way_to_white(tmp_path: Path) -> None:
    rgba = np.full((4, 4, 4), (200, 100, 0, 128), np.uint8)
    save(tmp_path / "x.png", rgba)
    share = 128 / 255
    wanted = torch.tensor([share * c + (1 - share) * 255 for c in (200, 100, 0)])
    torch.testing.assert_close(folder_bytes(tmp_path, 4)[0, :, 0, 0].float(), wanted, rtol=0, atol=0.6)


class Floats(TorchDispatchMode):
    """Notes the largest tensor of floats that is made."""

    largest = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point():
            self.largest = max(self.largest, out.numel())
        return out


def test_folder_bytes_are_the_bytes_of_image_folder_without_its_floats(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / f"{k}.png", np.random.default_rng(k).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    with Floats() as seen:
        pictures = folder_bytes(tmp_path, 6)
    assert seen.largest == 0
    assert (pictures.dtype, pictures.shape) == (torch.uint8, (3, 3, 6, 6))
    with Floats() as seen:
        assert torch.equal(image_folder(tmp_path, 6), from_uint8(pictures))
    assert seen.largest > 0


# ── 2-D distributions ─────────────────────────────────────────────────────


def drawn(name: str, n: int = 50_000, seed: int = 0) -> Tensor:
    return toy_2d(name, n, torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("name", TOY_2D)
def test_toy_points_are_repeatable_float32_and_within_reach(name: str) -> None:
    points = toy_2d(name, 5000, torch.Generator().manual_seed(0))
    assert points.shape == (5000, 2)
    assert points.dtype == torch.float32
    assert torch.equal(points, toy_2d(name, 5000, torch.Generator().manual_seed(0)))
    assert not torch.equal(points, toy_2d(name, 5000, torch.Generator().manual_seed(1)))
    assert float(points.abs().max()) < 4
    assert float((points.abs() < 3).double().mean()) > 0.99


@pytest.mark.parametrize("name", ["eight_gaussians", "two_spirals", "two_moons", "chequerboard"])
def test_symmetric_toys_are_centred(name: str) -> None:
    points = drawn(name)
    assert bool((points.mean(0).abs() < 5 * points.std(0) / math.sqrt(len(points))).all())


def test_eight_gaussians_have_the_mixtures_covariance() -> None:
    """Radius² / 2 + s² on the diagonal, 0 beside it; standard errors from the draws themselves."""
    points, exact = drawn("eight_gaussians"), eight_gaussians()
    expected = (2.0**2 / 2 + 0.3**2) * torch.eye(2, dtype=torch.float64)
    products = points[:, :, None] * points[:, None, :]
    assert bool(((products.mean(0) - expected).abs() < 5 * products.std(0) / math.sqrt(len(points))).all())
    shares = exact.responsibilities(points).mean(0)
    assert bool(((shares - 1 / 8).abs() < 5 * math.sqrt(7 / 64 / len(points))).all())


def test_chequerboard_fills_eight_squares_of_one_colour_alike() -> None:
    points = drawn("chequerboard")
    cell = points.floor().long() + 2
    assert int(cell.min()) == 0
    assert int(cell.max()) == 3
    assert bool(((cell.sum(1) % 2) == 0).all())
    counts = torch.bincount(cell[:, 0] * 4 + cell[:, 1], minlength=16).double()
    used = counts[counts > 0]
    assert len(used) == 8
    assert bool(((used / len(points) - 1 / 8).abs() < 5 * math.sqrt(7 / 64 / len(points))).all())
    inside = points - points.floor()
    assert bool(((inside.mean(0) - 0.5).abs() < 5 * math.sqrt(1 / 12 / len(points))).all())


def test_moons_lie_on_two_half_circles() -> None:
    points = drawn("two_moons") / 1.4
    upper, lower = points - torch.tensor([-0.5, -0.25]), points - torch.tensor([0.5, 0.25])
    off = torch.minimum((upper.norm(dim=1) - 1).abs(), (lower.norm(dim=1) - 1).abs())
    assert float(off.max()) < 6 * 0.08
    assert float(off.mean()) == pytest.approx(0.08 * math.sqrt(2 / math.pi), rel=0.1)  # of a half-normal
    on_upper = (upper.norm(dim=1) - 1).abs() < (lower.norm(dim=1) - 1).abs()
    assert float(points[on_upper, 1].mean()) > 0 > float(points[~on_upper, 1].mean())
    assert abs(float(on_upper.double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(len(points))


@pytest.mark.parametrize(("name", "arms"), [("spiral", 1), ("two_spirals", 2)])
def test_spirals_turn_with_their_radius(name: str, arms: int) -> None:
    points = drawn(name)
    radius, angle = points.norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
    far = radius > 0.5  # near the middle, noise blurs the angle
    phase = (angle - 1.5 * math.pi * radius)[far] * arms
    resultant = torch.complex(phase.cos(), phase.sin()).mean()
    assert float(resultant.abs()) > 0.8  # 0 if the angle did not follow the radius
    assert abs(float(resultant.angle())) < 0.02
    assert float((radius**2).mean()) == pytest.approx(2.0 + 2 * 0.06**2, rel=0.02)  # uniform over the disc's area


def test_unknown_toys_are_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"expected one of eight_gaussians, chequerboard, .* got 'moons'"):
        toy_2d("moons", 10)
    with pytest.raises(ValueError, match="n >= 1"):
        toy_2d("spiral", 0)


def test_image_folder_turns_photographs_upright(tmp_path: Path) -> None:
    """A camera stores a turned picture with a note (EXIF 6: turn by 90° clockwise to view); the note is heeded."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255  # left half white as stored, so the upper half is white when upright
    picture = Image.fromarray(pixels)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "photo.png", exif=exif)
    image = image_folder(tmp_path, 8)[0]
    torch.testing.assert_close(image[:, :4], torch.ones(3, 4, 8))
    torch.testing.assert_close(image[:, 4:], -torch.ones(3, 4, 8))


def test_half_precision_rounds_to_the_bytes_of_its_numbers() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.linspace(-1, 1, 20_001).to(dtype)
        assert torch.equal(to_uint8(x), to_uint8(x.float()))
