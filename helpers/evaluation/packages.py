"""Packages that only some measurements need: found when they are used, with advice where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["needed"]


def needed(module: str, package: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: The name to import.
        package: The name to install.
        purpose: What needs it, for the message.

    Raises:
        ModuleNotFoundError: If it is not installed; the message has the line to type.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{purpose} needs the package {package}, which is not installed: pip install {package}", name=module
        ) from error
