"""Modules of optional extras: imported when needed, with a message that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from adadagrad_kernels.errors import MissingDependencyError


def require(module: str, purpose: str, extra: str = "cli") -> Any:
    """Imports an optional module.

    Args:
        module: Dotted name of the module.
        purpose: What it is needed for, for the message.
        extra: The extra that installs it.

    Raises:
        MissingDependencyError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs {module}, which cannot be imported ({error}): "
            f"pip install 'adadagrad-kernels[{extra}]'"
        ) from error
