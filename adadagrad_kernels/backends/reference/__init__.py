"""Plain torch, on any device: the definition of every op, and in float64 the oracle of the tests.

Written to be read. Each function here is what the kernels of the other backends must reproduce;
arguments have passed the ops' checks. Sums of float32, bfloat16 and float16 are kept in float32,
sums over samples and over tensors in float64.

What a file of this folder lists in its ``__all__`` is an op of this backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adadagrad_kernels.backends import folders

globals().update(folders.ops(__name__, __path__))

if TYPE_CHECKING:

    def __getattr__(op: str) -> Any: ...


def unavailable() -> str | None:
    """Why this backend cannot run here; always None."""
    return None
