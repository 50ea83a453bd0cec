"""Tests of helpers.data.cifar10: every place that it comes from, and everything that can be wrong with it.

The data sets here are small and random; servers are this test's own, on the loopback interface.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import re
import socket
import struct
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
import torchvision
from huggingface_hub import constants as hub_constants
from huggingface_hub import file_download as hub_files
from huggingface_hub import utils as hub_utils
from PIL import Image
from pyarrow import parquet as pq

from helpers import data
from helpers.data.cifar import batches, cache, lookup
from helpers.data.cifar.images import CLASSES, PER_CLASS, checked

REAL = os.environ.get("CIFAR10_DIR")
FEW = {"train": 5, "test": 2}
NAMES = {split: f"{split}-00000-of-00001.parquet" for split in FEW}
FILES = [name for split in batches.BATCHES.values() for name in split]

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


# ── small data sets in every format ───────────────────────────────────────


def few_images(seed: int = 0) -> Arrays:
    """Random images (N, 32, 32, 3) and shuffled labels of each split, with the right number of each class."""
    rng = np.random.default_rng(seed)
    return {
        split: (
            rng.integers(0, 256, (10 * n, 32, 32, 3), dtype=np.uint8),
            rng.permutation(np.repeat(np.arange(10), n)),
        )
        for split, n in FEW.items()
    }


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def table(images: np.ndarray, labels: np.ndarray) -> pa.Table:
    pictures = [{"bytes": encoded(image), "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"img": pa.array(pictures, kind), "label": pa.array(labels, pa.int64())})


def write_parquet(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, (images, labels) in arrays.items():
        pq.write_table(table(images, labels), folder / NAMES[split])
    return folder


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike, and NumPy's modules by their old names, as the official files have them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text: str | bytes) -> None:
        raw = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_string

    @classmethod
    def dumps(cls, content: object) -> bytes:
        stream = io.BytesIO()
        cls(stream, protocol=2).dump(content)
        return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_batches(folder: Path, arrays: Arrays, dumps: Callable[[object], bytes] = Python2Pickler.dumps) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in batches.BATCHES.items():
        images, labels = arrays[split]
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for name, some, marks in zip(names, np.split(planes, len(names)), np.split(labels, len(names)), strict=True):
            content = {"batch_label": name, "labels": marks.tolist(), "data": some.copy(), "filenames": ["x.png"]}
            (folder / name).write_bytes(dumps(content))
    return folder


def find(root: str | Path | None = None, *, download: bool = False) -> data.CIFAR10:
    return lookup.find(root, download=download, per_class=FEW)


def assert_holds(found: data.CIFAR10, arrays: Arrays) -> None:
    for images, labels, split in ((found.train, found.train_labels, "train"), (found.test, found.test_labels, "test")):
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert images.is_contiguous()
        assert torch.equal(images, torch.from_numpy(arrays[split][0]).permute(0, 3, 1, 2))
        assert labels.tolist() == arrays[split][1].tolist()
    assert found.classes == CLASSES


# ── hosts ─────────────────────────────────────────────────────────────────


class Host(ThreadingHTTPServer):
    """Serves bytes, with ranges; can break connections and lie."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.break_at: dict[str, int] = {}  # path → how many bytes come before the connection breaks, once
        self.ranges_known = True
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def serve_mirror(self, folder: Path) -> None:
        for name in NAMES.values():
            path, content = self.path_of(name), (folder / name).read_bytes()
            self.content[path] = content
            self.etags[path] = hashlib.sha256(content).hexdigest()

    @staticmethod
    def path_of(name: str) -> str:
        return f"/datasets/uoft-cs/cifar10/resolve/main/plain_text/{name}"

    def gets(self, path: str) -> list[str | None]:
        """The ranges that were asked of a path."""
        return [span for method, asked, span in self.asked if (method, asked) == ("GET", path)]


class Handler(BaseHTTPRequestHandler):
    server: Host

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        host, span = self.server, self.headers.get("Range")
        host.asked.append((self.command, self.path, span))
        content = host.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", span)[1]) if span and host.ranges_known else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        if self.path in host.etags:
            self.send_header("ETag", f'"{host.etags[self.path]}"')
        self.end_headers()
        if with_body:
            end = host.break_at.pop(self.path, len(content))
            self.wfile.write(content[start:end])
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def mirror(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host.serve_mirror(write_parquet(tmp_path / "served", few_images()))
    monkeypatch.setenv("HF_ENDPOINT", host.address)
    monkeypatch.setattr(hub_constants, "DOWNLOAD_CHUNK_SIZE", 1_000)  # these files are small
    return host


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No folder, an empty cache, and hosts that refuse connections."""
    monkeypatch.delenv("CIFAR10_DIR", raising=False)
    monkeypatch.setenv("DIFFUSION_EBM_COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and not listening
        refused = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", refused)
        monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{refused}/cifar-10-python.tar.gz")
        yield


# ── folders ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("below", ["", "plain_text", "data"])
def test_parquet_is_found_in_a_folder_and_below_it(tmp_path: Path, below: str) -> None:
    write_parquet(tmp_path / "set" / below, few_images())
    assert_holds(find(tmp_path / "set"), few_images())


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
@pytest.mark.parametrize(
    "dumps",
    [Python2Pickler.dumps, *(lambda content, p=p: pickle.dumps(content, p) for p in (2, 4, 5))],
    ids=["python2", "protocol2", "protocol4", "protocol5"],
)
def test_official_batches_are_found_in_a_folder_and_below_it(
    tmp_path: Path, below: str, dumps: Callable[[object], bytes]
) -> None:
    write_batches(tmp_path / "set" / below, few_images(), dumps)
    assert_holds(find(str(tmp_path / "set")), few_images())


def test_the_batches_of_this_test_are_like_the_official_ones(tmp_path: Path) -> None:
    """torchvision, which reads the official files, reads them too."""
    write_batches(tmp_path, few_images())
    content = pickle.loads((tmp_path / "test_batch").read_bytes(), encoding="latin1")
    assert np.array_equal(content["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), few_images()["test"][0])
    assert b"numpy._core" not in (tmp_path / "test_batch").read_bytes()


def test_batches_in_column_major_order_are_put_right(tmp_path: Path) -> None:
    arrays = few_images()
    write_batches(tmp_path, arrays)
    planes = arrays["test"][0].transpose(0, 3, 1, 2).reshape(20, -1)
    content = {b"labels": arrays["test"][1].tolist(), b"data": np.asfortranarray(planes)}
    for protocol in (2, 5):
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol))
        assert_holds(find(tmp_path), arrays)


def test_the_folder_comes_from_the_environment_unless_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFAR10_DIR", str(write_parquet(tmp_path / "a", few_images(1))))
    assert_holds(find(), few_images(1))
    assert_holds(find(write_parquet(tmp_path / "b", few_images(2))), few_images(2))
    monkeypatch.setenv("CIFAR10_DIR", "")
    with pytest.raises(FileNotFoundError, match="none was given"):
        lookup.find(None, download=False, per_class=PER_CLASS)


def test_several_files_a_split_and_grey_and_jpeg_pictures_are_read(tmp_path: Path) -> None:
    arrays = few_images()
    write_parquet(tmp_path, arrays)
    images, labels = arrays["test"]
    images[0] = images[0, ..., :1]  # grey
    smooth = np.linspace(0, 255, 32).astype(np.uint8)[:, None, None]
    images[1] = smooth
    pictures = [encoded(image) for image in images]
    pictures[0] = encoded(images[0, ..., 0])
    pictures[1] = encoded(images[1], "JPEG", quality=100)
    (tmp_path / NAMES["test"]).unlink()
    for i, part in enumerate((slice(0, 7), slice(7, 20))):
        rows = [{"bytes": picture} for picture in pictures[part]]
        pq.write_table(pa.table({"img": rows, "label": labels[part]}), tmp_path / f"test-{i:05}-of-00002.parquet")
    found = find(tmp_path)
    assert int((found.test[1].int() - torch.from_numpy(images[1]).permute(2, 0, 1).int()).abs().max()) <= 3
    images[1] = found.test[1].permute(1, 2, 0).numpy()
    assert_holds(found, arrays)


def test_classes_are_the_official_ones() -> None:
    assert CLASSES == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert dict(PER_CLASS) == {"train": 5000, "test": 1000}


def test_the_hash_is_that_of_the_pixels_row_by_row(tmp_path: Path) -> None:
    found = find(write_parquet(tmp_path / "set", few_images()))
    expected = {split: hashlib.sha256(images.tobytes()).hexdigest() for split, (images, _) in few_images().items()}
    assert found.sha256() == expected
    assert "Parquet files in" in repr(found)
    assert len(repr(found)) < 300


def test_nothing_is_written_into_the_folder(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set", few_images())
    find(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES.values())


# ── folders with something wrong ──────────────────────────────────────────


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"hello", "cannot read .*test-"),
        (lambda content: b"", "cannot read .*test-"),
        (lambda content: content[: len(content) // 2], "cannot read .*test-"),
        (lambda content: content[:5000] + bytes(9000) + content[14000:], "cannot read .*test-|row .* no picture"),
    ],
    ids=["text", "empty", "truncated", "zeros"],
)
def test_a_broken_parquet_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    file = write_parquet(tmp_path, few_images()) / NAMES["test"]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=message):
        find(tmp_path)


def bomb() -> bytes:
    """The beginning of a PNG file that says that it has 900 million pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"hello", "row 7 holds no picture"),
        (bomb(), "row 7 holds no picture"),
        (None, "row 7 holds no picture"),
        (encoded(few_images()["test"][0][0])[:1000], "row 7 holds no picture"),
        (encoded(np.zeros((16, 32, 3), np.uint8)), r"\(32, 16\) pixels instead of 32×32"),
        (encoded(np.zeros((32, 32, 3), np.uint8), "BMP"), "row 7 holds no picture"),
    ],
    ids=["text", "bomb", "null", "truncated", "size", "format"],
)
def test_a_broken_picture_is_named_by_its_row(tmp_path: Path, picture: bytes | None, message: str) -> None:
    images, labels = few_images()["test"]
    write_parquet(tmp_path, few_images())
    rows = [{"bytes": encoded(image)} for image in images]
    rows[7] = {"bytes": picture}
    pq.write_table(pa.table({"img": rows, "label": labels}), tmp_path / NAMES["test"])
    with pytest.raises(ValueError, match=message):
        find(tmp_path)


@pytest.mark.parametrize(
    "columns",
    [
        {"picture": [b"x"], "label": [0]},
        {"img": [b"x"], "label": [0]},
        {"img": [{"path": "x"}], "label": [0]},
        {"img": [{"bytes": "text"}], "label": [0]},
        {"img": [{"bytes": b"x"}], "label": ["cat"]},
        {"img": [{"bytes": b"x"}]},
    ],
)
def test_parquet_of_another_data_set_is_told_apart(tmp_path: Path, columns: dict) -> None:
    write_parquet(tmp_path, few_images())
    pq.write_table(pa.table(columns), tmp_path / NAMES["train"])
    with pytest.raises(ValueError, match="expected a struct img with a field bytes, and an integer label, got"):
        find(tmp_path)


def relabelled(labels: list[int | None]) -> pa.Array:
    return pa.array(labels, pa.int64())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: [*labels[:-1], (labels[-1] + 1) % 10], r"2 images of each class, got [13] of \w+, [13]"),
        (lambda labels: [10, *labels[1:]], "expected labels 0 to 9, got 0 to 10"),
        (lambda labels: [-1, *labels[1:]], "expected labels 0 to 9, got -1 to 9"),
        (lambda labels: [None, *labels[1:]], "1 labels are missing"),
    ],
    ids=["histogram", "too large", "negative", "null"],
)
def test_wrong_labels_are_refused(tmp_path: Path, change: Callable[[list], list], message: str) -> None:
    write_parquet(tmp_path, few_images())
    images, labels = few_images()["test"]
    right = table(images, labels)
    wrong = right.set_column(1, "label", relabelled(change(labels.tolist())))
    pq.write_table(wrong, tmp_path / NAMES["test"])
    with pytest.raises(ValueError, match=message):
        find(tmp_path)
    assert not list(cache.cache_folder().glob("*.safetensors"))


def test_wrong_numbers_of_images_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path, few_images())
    with pytest.raises(ValueError, match=r"train split: expected images \(50000, 3, 32, 32\) torch.uint8, got \(50, 3"):
        data.cifar10(tmp_path)
    images, labels = few_images()["test"]
    pq.write_table(table(images[:-1], labels[:-1]), tmp_path / NAMES["test"])
    with pytest.raises(ValueError, match=r"test split: expected images \(20, .* got \(19"):
        find(tmp_path)
    pq.write_table(table(images, labels).slice(0, 0), tmp_path / NAMES["test"])
    with pytest.raises(ValueError, match=r"test split: expected images \(20, .* got \(0"):
        find(tmp_path)


def test_wrong_types_are_refused() -> None:
    right = {split: (torch.zeros(10 * n, 3, 32, 32, dtype=torch.uint8), torch.arange(10 * n) % 10)
             for split, n in FEW.items()}  # fmt: skip
    checked(right, "here", FEW)
    with pytest.raises(ValueError, match=r"here: test split: expected images .* torch\.uint8, got .* torch\.float32"):
        checked(right | {"test": (right["test"][0].float(), right["test"][1])}, "here", FEW)
    with pytest.raises(ValueError, match=r"here: train split: expected labels \(50,\) torch.int64, got \(20,\)"):
        checked(right | {"train": (right["train"][0], right["test"][1])}, "here", FEW)


def test_half_a_data_set_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "parquet", few_images())
    (tmp_path / "parquet" / NAMES["test"]).unlink()
    with pytest.raises(FileNotFoundError, match=r"one split of CIFAR-10 only: no file test-\*\.parquet"):
        find(tmp_path / "parquet")
    write_batches(tmp_path / "batches", few_images())
    (tmp_path / "batches" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="in part: no file data_batch_3"):
        find(tmp_path / "batches")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"expected a folder with CIFAR-10, got a file: .*x\.parquet"):
        find(tmp_path / "x.parquet")


@pytest.mark.parametrize("damage", [b"", b"hello", b"N.", pickle.dumps({"data": 1, "labels": []}), None])
def test_a_broken_batch_is_named(tmp_path: Path, damage: bytes | None) -> None:
    file = write_batches(tmp_path, few_images()) / "data_batch_2"
    file.write_bytes(file.read_bytes()[:20_000] if damage is None else damage)
    with pytest.raises(ValueError, match=r"cannot read .*data_batch_2"):
        find(tmp_path)


@pytest.mark.parametrize("array", [np.zeros((10, 3072)), np.zeros((10, 3071), np.uint8), np.array([None])])
def test_a_batch_of_another_kind_of_array_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    file = write_batches(tmp_path, few_images()) / "data_batch_2"
    file.write_bytes(pickle.dumps({"data": array, "labels": [0] * 10}))
    with pytest.raises(ValueError, match=r"cannot read .*data_batch_2: not a batch of CIFAR-10"):
        find(tmp_path)


class Calls:
    """Pickled, this is the wish to call something."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.wish = function, arguments

    def __reduce__(self) -> tuple:
        return self.wish


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.mkdir, exec, eval, getattr, np.load, np.fromfile, torch.load, bytearray])
def test_a_pickle_that_calls_something_is_refused(tmp_path: Path, function: Callable, protocol: int) -> None:
    harm = tmp_path / "harm"
    arguments = (f"import os; os.mkdir({str(harm)!r})",) if function in (exec, eval) else (str(harm),)
    file = write_batches(tmp_path / "set", few_images()) / "data_batch_1"
    content = {"labels": [0], "data": Calls(function, *arguments)}
    file.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=r"cannot read .*data_batch_1: refused, because it asks for \S+\.\w+"):
        find(tmp_path / "set")
    assert not harm.exists()


# ── the cache ─────────────────────────────────────────────────────────────


def only_slot() -> Path:
    [file] = cache.cache_folder().glob("*.safetensors")
    return file


def test_the_cache_is_read_instead_of_the_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parquet(tmp_path / "set", few_images())
    first = find(folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # not even needed any more
    second = find(folder)
    assert_holds(second, few_images())
    assert second.source == first.source


@pytest.mark.parametrize("kept", ["nothing", "size and time"])
def test_a_changed_folder_is_read_anew(tmp_path: Path, kept: str) -> None:
    write_parquet(tmp_path, few_images(1))
    old = {tmp_path / name: (tmp_path / name).stat() for name in NAMES.values()}
    find(tmp_path)
    write_parquet(tmp_path, few_images(2))
    if kept == "size and time":
        for file, status in old.items():
            assert file.stat().st_size == status.st_size  # random pixels do not compress
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert_holds(find(tmp_path), few_images(2))
    only_slot()  # and no second copy is kept


def test_a_cache_never_stands_for_another_folder(tmp_path: Path) -> None:
    find(write_parquet(tmp_path / "a", few_images(1)))
    assert_holds(find(write_parquet(tmp_path / "b", few_images(2))), few_images(2))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds neither"):
        find(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="typo is missing"):
        find(tmp_path / "typo")


def test_where_no_folder_is_named_the_cache_of_the_last_one_serves(tmp_path: Path) -> None:
    find(write_parquet(tmp_path / "a", few_images(1)))
    os.utime(only_slot(), (1, 1))
    find(write_parquet(tmp_path / "b", few_images(2)))
    assert_holds(find(), few_images(2))
    assert find().source == f"Parquet files in {tmp_path / 'b'}"


def zeroed(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(100) + content[middle + 100 :]


def other_tensors(content: bytes) -> bytes:
    return safetensors.torch.save({"weight": torch.zeros(3)}, {"fingerprint": "any"})


def without_facts(content: bytes) -> bytes:
    return safetensors.torch.save(safetensors.torch.load(content))


@pytest.mark.parametrize(
    "damage",
    [zeroed, other_tensors, without_facts, lambda c: b"", lambda c: b"hello", lambda c: c[:-100], lambda c: c + b"x"],
    ids=["bytes", "tensors", "facts", "empty", "text", "truncated", "longer"],
)
def test_a_broken_cache_is_made_anew(
    mirror: Host, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    find(download=True)
    file = only_slot()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert_holds(find(download=True), few_images())
    assert re.search(rf"the cache \S+{file.name} is broken \(.+\), and is not used", caplog.text)
    assert safetensors.torch.load(file.read_bytes()).keys() == safetensors.torch.load(whole).keys()


def test_a_broken_cache_of_a_folder_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_parquet(tmp_path / "set", few_images())
    find(folder)
    file = only_slot()
    whole = file.read_bytes()
    file.write_bytes(zeroed(whole))
    assert_holds(find(folder), few_images())
    assert "is broken" in caplog.text
    assert len(file.read_bytes()) == len(whole)


def test_a_cache_with_wrong_numbers_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = find(write_parquet(tmp_path / "set", few_images()))
    assert cache.save(cache.slot(), found, "any")
    assert cache.load(cache.slot(), PER_CLASS) is None
    assert "expected images (50000, 3, 32, 32)" in caplog.text


def test_a_cache_that_cannot_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_parquet(tmp_path / "set", few_images())
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setenv("DIFFUSION_EBM_COURSE_CACHE", str(tmp_path / "file" / "cache"))
    assert_holds(find(folder), few_images())
    assert "cannot write the cache" in caplog.text


def test_a_full_disk_leaves_no_half_written_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(tensors: object, file: Path, facts: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    assert_holds(find(write_parquet(tmp_path / "set", few_images())), few_images())
    assert "No space left on device" in caplog.text
    assert not [path for path in cache.cache_folder().iterdir() if path.suffix != ".lock"]


def test_what_killed_processes_left_is_swept_up(tmp_path: Path) -> None:
    cache.cache_folder().mkdir()
    old, new = (cache.cache_folder() / f".cifar10-{age}.tmp" for age in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    find(write_parquet(tmp_path / "set", few_images()))
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DIFFUSION_EBM_COURSE_CACHE": "~/own", "XDG_CACHE_HOME": "xdg"}, "home/own"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/diffusion-ebm-course"),
        ({}, "home/.cache/diffusion-ebm-course"),
    ],
)
def test_where_the_cache_is(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIFFUSION_EBM_COURSE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"HOME": "home", "USERPROFILE": "home"} | variables).items():
        monkeypatch.setenv(name, value)
    assert cache.cache_folder() == Path(expected)


# ── downloads: the mirror ─────────────────────────────────────────────────


def test_the_mirror_is_asked_once_and_then_the_cache(mirror: Host) -> None:
    first = find(download=True)
    assert_holds(first, few_images())
    assert first.source == f"dataset uoft-cs/cifar10 from {mirror.address}"
    n_asked = len(mirror.asked)
    assert [mirror.gets(mirror.path_of(name)) for name in NAMES.values()] == [[None], [None]]
    assert_holds(find(download=True), few_images())
    assert_holds(find(download=False), few_images())
    assert len(mirror.asked) == n_asked
    left = {path.name for path in cache.cache_folder().iterdir()}
    assert left == {"cifar10-download.safetensors", "cifar10-download.lock"}


def test_a_folder_without_the_data_leads_on_to_the_mirror(
    mirror: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    assert_holds(find(tmp_path / "empty", download=True), few_images())
    assert f"no CIFAR-10 in {tmp_path / 'empty'}: looking in the cache and for downloads" in caplog.text


def test_a_broken_connection_is_taken_up_where_it_broke(mirror: Host) -> None:
    path = mirror.path_of(NAMES["train"])
    mirror.break_at[path] = 40_000
    assert_holds(find(download=True), few_images())
    assert mirror.gets(path) == [None, "bytes=40000-"]


def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends when its connection breaks, as if by Ctrl-C."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hub_files.time, "sleep", stop)  # it waits before it tries again
        with pytest.raises(KeyboardInterrupt):
            find(download=True)


@pytest.mark.parametrize("ranges_known", [True, False])
def test_an_interrupted_run_is_taken_up_by_the_next(
    mirror: Host, ranges_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mirror.path_of(NAMES["test"])
    mirror.break_at[path] = 30_000
    interrupted(monkeypatch)
    mirror.ranges_known = ranges_known
    assert_holds(find(download=True), few_images())
    assert mirror.gets(path) == [None, "bytes=30000-"]
    assert mirror.gets(mirror.path_of(NAMES["train"])) == [None]  # was whole


@pytest.mark.parametrize("etag", [True, False])
def test_a_new_version_is_not_appended_to_a_part_of_the_old(
    mirror: Host, etag: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mirror.path_of(NAMES["train"])
    mirror.break_at[path] = 30_000
    if not etag:
        mirror.etags.clear()
    interrupted(monkeypatch)
    mirror.serve_mirror(write_parquet(tmp_path / "new", few_images(7)))
    if not etag:
        mirror.etags.clear()
    assert_holds(find(download=True), few_images(7))
    assert mirror.gets(path) == [None, None]


@pytest.mark.parametrize("etag", [True, False])
def test_wrong_content_is_not_kept(mirror: Host, tmp_path: Path, etag: bool, caplog: pytest.LogCaptureFixture) -> None:
    path = mirror.path_of(NAMES["test"])
    right, known = mirror.content[path], mirror.etags[path]
    mirror.content[path] = b"<html>log in to the hotel's network</html>"
    if not etag:
        mirror.etags.clear()
    with pytest.raises(FileNotFoundError) as caught:
        find(download=True)
    expected = "SHA-256 of what came is not the one" if etag else "cannot read"
    assert re.search(rf"Parquet mirror.*ValueError: .*{expected}", str(caught.value))
    assert "asking the official host" in caplog.text
    mirror.content[path] = right
    mirror.etags[path] = known
    assert_holds(find(download=True), few_images())


def test_a_mirror_of_another_data_set_is_refused(mirror: Host, tmp_path: Path) -> None:
    images, labels = few_images()["test"]
    write_parquet(tmp_path / "served", few_images() | {"test": (images, (labels + (labels == 3)))})
    mirror.serve_mirror(tmp_path / "served")
    with pytest.raises(FileNotFoundError, match="expected 2 images of each class, got 0 of cat, 4 of deer"):
        find(download=True)
    assert not list(cache.cache_folder().rglob("*.parquet"))


def test_two_readers_download_once(mirror: Host) -> None:
    found: list[data.CIFAR10] = []
    readers = [threading.Thread(target=lambda: found.append(find(download=True))) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert_holds(found[0], few_images())
    assert_holds(found[1], few_images())
    assert mirror.gets(mirror.path_of(NAMES["train"])) == [None]


@pytest.mark.parametrize("hidden", [True, False])
def test_progress_bars_can_be_hidden(
    mirror: Host, hidden: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TQDM_POSITION", "-1")  # the hub's sign for: draw, terminal or not
    monkeypatch.setenv("TQDM_DISABLE", "1" if hidden else "0")
    find(download=True)
    shown = capfd.readouterr().err
    assert ("00001.parquet" in shown) is not hidden  # the hub's bars; tqdm's own heed the variable at its import
    assert not hub_utils.are_progress_bars_disabled()


# ── downloads: the official host ──────────────────────────────────────────


@pytest.fixture
def official(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with an archive like the official one, and a torchvision that expects it."""
    folder = write_batches(tmp_path / "archive" / "cifar-10-batches-py", few_images())
    (folder / "batches.meta").write_bytes(Python2Pickler.dumps({"label_names": list(CLASSES)}))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
    host.content["/cifar-10-python.tar.gz"] = stream.getvalue()

    def md5(content: bytes) -> str:
        return hashlib.md5(content, usedforsecurity=False).hexdigest()

    def listed(names: tuple[str, ...]) -> list[list[str]]:
        return [[name, md5((folder / name).read_bytes())] for name in names]

    known = torchvision.datasets.CIFAR10
    monkeypatch.setattr(known, "url", f"{host.address}/cifar-10-python.tar.gz")
    monkeypatch.setattr(known, "tgz_md5", md5(stream.getvalue()))
    monkeypatch.setattr(known, "train_list", listed(batches.BATCHES["train"]))
    monkeypatch.setattr(known, "test_list", listed(batches.BATCHES["test"]))
    monkeypatch.setattr(known, "meta", known.meta | {"md5": md5((folder / "batches.meta").read_bytes())})
    return host


def test_the_official_host_is_asked_where_the_mirror_is_not_reached(
    official: Host, caplog: pytest.LogCaptureFixture
) -> None:
    found = find(download=True)
    assert_holds(found, few_images())
    assert found.source == f"official archive from {official.address}/cifar-10-python.tar.gz"
    assert re.search(r"no CIFAR-10 from http://127.0.0.1:\d+ \(Connect.*\): asking the official host", caplog.text)
    assert_holds(find(download=False), few_images())
    left = {path.name for path in cache.cache_folder().iterdir()}
    assert left == {"cifar10-download.safetensors", "cifar10-download.lock"}


def test_the_official_archive_is_checked(official: Host) -> None:
    content = official.content["/cifar-10-python.tar.gz"]
    official.content["/cifar-10-python.tar.gz"] = zeroed(content)
    with pytest.raises(FileNotFoundError, match=r"official archive, .*RuntimeError: .*corrupted"):
        find(download=True)
    official.content["/cifar-10-python.tar.gz"] = content
    assert_holds(find(download=True), few_images())


@pytest.mark.parametrize("package", ["huggingface_hub", "pyarrow"])
def test_without_the_optional_packages_the_official_host_still_serves(
    official: Host, mirror: Host, package: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "official archive" in find(download=True).source
    assert f'needs {package}: pip install "diffusion-ebm-course[train]"' in caplog.text


def test_without_pyarrow_a_folder_of_parquet_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_parquet(tmp_path, few_images())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'needs pyarrow: pip install "diffusion-ebm-course\[train\]"'):
        find(folder)


# ── nothing anywhere ──────────────────────────────────────────────────────


def test_nothing_anywhere_is_one_error_that_lists_the_ways(tmp_path: Path) -> None:
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as caught:
        data.cifar10(tmp_path / "nothing")
    assert time.perf_counter() - start < 30
    text = str(caught.value)
    for part in ("CIFAR10_DIR", "nothing is missing", str(cache.cache_folder()), os.environ["HF_ENDPOINT"],
                 torchvision.datasets.CIFAR10.url, "cifar-10-batches-py", *NAMES.values()):  # fmt: skip
        assert part in text
    assert len(re.findall("Connect|refused", text)) >= 2
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_no_download_where_none_is_allowed(mirror: Host, official: Host) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)not tried: download=False.*not tried: download=False"):
        data.cifar10(download=False)
    assert not mirror.asked


# ── the real one ──────────────────────────────────────────────────────────


@pytest.mark.skipif(not REAL, reason="needs CIFAR-10: set CIFAR10_DIR to a folder that holds it")
def test_the_real_data_set_is_whole_and_loads_fast() -> None:
    """The bounds are for the processor's time, which other work on the machine lengthens less than the clock's."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        found = data.cifar10(REAL)
        seconds.append(time.process_time() - start)
    only_slot().unlink()  # large
    assert seconds[0] < 15  # measured: 4.5
    assert seconds[1] < 2  # measured: 0.2
    assert found.train.shape == (50_000, 3, 32, 32)
    assert found.test.shape == (10_000, 3, 32, 32)
    pixels = data.from_uint8(found.train)
    # The mean and standard deviation of each channel that the literature uses, for bytes scaled to [0, 1].
    for got, expected in (
        ((pixels.mean((0, 2, 3)) + 1) / 2, [0.4914, 0.4822, 0.4465]),
        (pixels.std((0, 2, 3)) / 2, [0.2470, 0.2435, 0.2616]),
    ):
        torch.testing.assert_close(got, torch.tensor(expected), rtol=0, atol=2e-3)
    # The first training image is a frog, and the first test image a cat.
    assert [found.classes[int(labels[0])] for labels in (found.train_labels, found.test_labels)] == ["frog", "cat"]
