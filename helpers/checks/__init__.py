"""Exercise checks that name the mistake: one module per lesson, one function per exercise.

A lesson says ``from helpers import checks`` and ``checks.time_embedding.halves(...)``: the module loads when named.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ._core import REGISTRY, Mistake, NotAttempted, Outcome, check, expect_close, expect_scalar, expect_tensor

__all__ = ["REGISTRY", "Mistake", "NotAttempted", "Outcome", "check", "expect_close", "expect_scalar", "expect_tensor"]


def __getattr__(name: str) -> ModuleType:
    if not name.startswith("_"):
        try:
            return import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
