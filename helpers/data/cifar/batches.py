"""CIFAR-10 as the official Python batches: six pickles, read without trusting them.

A pickle is a program: unpickling a stranger's file runs whatever its author wished. The reader here knows none of
pickle's commands that call something, but two: *an array* and *its type*; and even these it does not hand to NumPy, it
only notes their arguments, and then makes the array from its bytes. Everything else is refused by name.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .images import CIFAR10, checked

__all__ = ["BATCHES", "find_batches", "read_batches"]

BATCHES: Mapping[str, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
"""The official files of each split."""

N_VALUES = 3 * 32 * 32


def find_batches(folder: Path) -> Path | None:
    """The folder that holds the batches: this one or its ``cifar-10-batches-py``; None if there are none.

    Raises:
        FileNotFoundError: If some of the six files are missing.
    """
    names = [name for split in BATCHES.values() for name in split]
    for place in (folder, folder / "cifar-10-batches-py"):
        missing = [name for name in names if not (place / name).is_file()]
        if missing and len(missing) < len(names):
            raise FileNotFoundError(f"{place} holds CIFAR-10 in part: no file {', '.join(missing)}")
        if not missing:
            return place
    return None


def read_batches(folder: Path, source: str, per_class: Mapping[str, int]) -> CIFAR10:
    """Read the six files and check the result.

    Args:
        folder: Where they are.
        source: As in :func:`.images.checked`.
        per_class: As there.

    Raises:
        ValueError: If a file is broken or asks for more than arrays, or the result is not CIFAR-10.
    """
    splits = {}
    for split, names in BATCHES.items():
        images, labels = zip(*(_read_batch(folder / name) for name in names), strict=True)
        splits[split] = torch.cat(images), torch.cat(labels)
    return checked(splits, source, per_class)


def _read_batch(file: Path) -> tuple[Tensor, Tensor]:
    try:
        content = _Unpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        images = content["data"].array().reshape(-1, N_VALUES)
        labels = [int(label) for label in content["labels"]]
    except pickle.UnpicklingError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    except Exception as error:  # a broken pickle can raise nearly anything
        raise ValueError(f"cannot read {file}: not a batch of CIFAR-10 ({type(error).__name__}: {error})") from error
    return torch.from_numpy(images).reshape(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)


class _Unpickler(pickle.Unpickler):
    """Admits plain containers and byte arrays."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | object:
        # NumPy 2 has moved its private modules; files written by either are read. What is handed out is made anew
        # each time, so that nothing a pickle does to it lasts.
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy.core.multiarray", "_reconstruct":
                return lambda *_: _StoredArray()
            case "numpy.core.numeric", "_frombuffer":
                return lambda data, dtype, shape, order: _StoredArray(data, dtype, shape, order == "F")
            case "numpy", "ndarray":
                return object()
            case "numpy", "dtype":
                return lambda code, *_: _StoredType(code)
            case "_codecs", "encode":  # bytes, as Python 3 writes them in the old protocols
                return lambda text, _: text.encode("latin-1")
        raise pickle.UnpicklingError(
            f"refused, because it asks for {module}.{name}, and batches of CIFAR-10 hold only arrays, lists and numbers"
        )


class _StoredType:
    """What a pickle says about an array's type."""

    def __init__(self, code: str | bytes) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like: bytes have none."""


class _StoredArray:
    """What a pickle says about an array."""

    def __init__(self, data: object = b"", dtype: object = None, shape: object = (0,), fortran: object = False) -> None:
        self.data, self.dtype, self.shape, self.fortran = data, dtype, shape, fortran

    def __setstate__(self, state: tuple) -> None:
        _version, self.shape, self.dtype, self.fortran, self.data = state

    def array(self) -> np.ndarray:
        """The array, if it is one of bytes."""
        if not isinstance(self.dtype, _StoredType) or self.dtype.code != "u1":
            raise ValueError("expected an array of bytes")
        values = np.frombuffer(bytearray(self.data), dtype=np.uint8)
        return np.ascontiguousarray(values.reshape(self.shape, order="F" if self.fortran else "C"))
