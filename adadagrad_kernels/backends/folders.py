"""The ops of a backend whose functions are in a folder: what its files have, and no list."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any


def files(path: Iterable[str]) -> list[str]:
    """The names of a folder's modules, but for those that others share; nothing is imported."""
    return [found.name for found in pkgutil.iter_modules(path) if not found.name.startswith("_")]


def ops(package: str, path: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """What the modules of a folder have in their ``__all__``, by name."""
    modules = [importlib.import_module(f"{package}.{name}") for name in files(path)]
    return {op: getattr(module, op) for module in modules for op in module.__all__}
