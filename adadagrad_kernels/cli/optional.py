"""Modules of the `cli` extra: imported when needed, with a message that says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from adadagrad_kernels.cli.errors import MissingDependencyError


def require(module: str, purpose: str) -> Any:
    """Imports an optional module.

    Args:
        module: Dotted name of the module.
        purpose: What it is needed for, for the message.

    Raises:
        MissingDependencyError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs {module}, which cannot be imported ({error}): "
            "pip install 'adadagrad-kernels[cli]'"
        ) from error
