"""Weights on disk: whole files or none, each with a card that holds its hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

__all__ = ["load_checkpoint", "save_checkpoint", "sha256", "write_atomically"]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a temporary neighbour first, then one rename.

    Raises:
        OSError: If it cannot be written; what stood there before is kept.
    """
    _write_together({path: content})


def temporaries_of(path: Path) -> Iterator[Path]:
    """What writers of ``path`` have left beside it: unfinished files, if no one is writing now."""
    return path.parent.glob(f".{path.name}.*")


def _write_together(files: Mapping[Path, bytes]) -> None:
    """All temporary neighbours first, where a full disk shows, and then only renames."""
    temporaries: list[Path] = []
    kept: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            temporaries.append(_temporary(path, content))
        for path in list(files)[:-1]:  # what the failure of a later rename must put back
            if path.exists():
                kept[path] = _temporary(path, path.read_bytes())
        _rename(dict(zip(files, temporaries, strict=True)), kept)
    except OSError as error:
        if error.errno and not error.filename:  # a full disk does not say which file
            error.filename = str(path)
        raise
    finally:
        for temporary in (*temporaries, *kept.values()):
            temporary.unlink(missing_ok=True)


def _temporary(path: Path, content: bytes) -> Path:
    """A neighbour of ``path`` with this content, on the disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _rename(temporaries: Mapping[Path, Path], kept: Mapping[Path, Path]) -> None:
    """Put new files in their places; all of them, or, as far as the disk allows it, none."""
    done: list[Path] = []
    try:
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
            done.append(path)
    except OSError:
        for path in done:
            if path in kept:
                os.replace(kept[path], path)
            else:
                path.unlink()
        raise


def _sweep(path: Path) -> None:
    """Remove what writers of ``path`` have left that were killed; those of now are younger than an hour."""
    for unfinished in temporaries_of(path):
        with contextlib.suppress(OSError):  # another process may be sweeping
            if time.time() - unfinished.stat().st_mtime > 3600:
                unfinished.unlink()


def save_checkpoint(
    path: str | Path, weights: Mapping[str, nn.Module], info: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Path:
    """Save models as one safetensors file, with a JSON file of the same name beside it.

    Args:
        path: The ``.safetensors`` file.
        weights: Name → module, e.g. ``{"model": model, "ema": result.ema}``.
        info: Anything JSON can hold: recipe, losses, metrics. The weights' hash is added as ``"sha256"``.
        dtype: In which floating-point weights are stored, e.g. ``torch.float16`` for half the bytes; None: their own.

    Returns:
        The path.

    Raises:
        ValueError: If ``path`` does not end in ``.safetensors``, a name holds a dot, or ``info`` is not JSON.
        ValueError: If a number is too large for ``dtype``.
        OSError: If it cannot be written; what stood there before is kept. Only a process that is killed between two
            renames leaves files that do not belong together, which :func:`load_checkpoint` notices.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"expected a path that ends in .safetensors, got {path.name}")
    if any("." in name for name in weights):
        raise ValueError(f"expected names without dots, got {', '.join(weights)}")
    tensors = {}
    for name, module in weights.items():
        for key, value in module.state_dict().items():
            stored = value.detach().to("cpu", dtype if value.is_floating_point() else None)
            if bool((stored.isinf() & value.isfinite().cpu()).any()):
                raise ValueError(f"expected {name}.{key} within the range of {dtype}, got up to {value.abs().max():g}")
            tensors[f"{name}.{key}"] = stored.clone(memory_format=torch.contiguous_format)
    content = safetensors.torch.save(tensors)
    try:
        text = json.dumps({**info, "sha256": hashlib.sha256(content).hexdigest()}, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected info that JSON can hold: {error}") from error
    _write_together({path: content, path.with_suffix(".json"): (text + "\n").encode()})
    return path


def load_checkpoint(path: str | Path, models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Load what :func:`save_checkpoint` saved, after checking that both files belong together.

    Args:
        path: The ``.safetensors`` file.
        models: Name → module to fill; names that are in the file but not here are skipped.

    Returns:
        The JSON file's content.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If the JSON file cannot be read, the hash does not fit, a name is missing, or the weights do not fit
            the module.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise FileNotFoundError(f"no checkpoint at {file}")
    try:
        info = json.loads(path.with_suffix(".json").read_text("utf-8"))
        expected = info["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.stem}.json does not describe a checkpoint ({error!r}): get both files anew") from error
    if sha256(path) != expected:
        raise ValueError(
            f"{path.name} is not the file that {path.stem}.json describes (SHA-256 differs): get both anew"
        )
    tensors = safetensors.torch.load_file(path)
    for name, module in models.items():
        prefix = f"{name}."
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not state:
            held = sorted({key.split(".")[0] for key in tensors})
            raise ValueError(f"expected weights named {name!r} in {path.name}, found {', '.join(held)}")
        if misfit := _misfit(module, state):
            raise ValueError(f"{path.name} does not fit this {type(module).__name__}: {misfit}")
        module.load_state_dict(state)  # casts to each parameter's own dtype
    return info


def _misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """How weights differ from those of a module, by name and shape, in a few words; empty if they do not."""
    own = module.state_dict()
    kinds = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [name for name in own if name in state and own[name].shape != state[name].shape],
    }
    if not any(kinds.values()):
        return ""
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items() if names)
    return f"{counts.replace(' ', ' weights ', 1)}, first {next(names[0] for names in kinds.values() if names)}"
