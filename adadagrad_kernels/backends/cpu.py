"""The C++ kernels; filled in by the compiled module."""

from __future__ import annotations


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    return "the compiled module is missing"
