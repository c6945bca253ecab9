"""The C++ kernels: addresses, sizes and strides handed to the compiled module.

Arguments have passed the ops' checks. The kernels allocate nothing that torch could own; outputs
are made here. The compiled module writes behind autograd's back, so the version counters of what
it has written are raised here, which is how autograd notices a saved tensor that has changed.

What a file of this folder lists in its ``__all__`` is an op of this backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adadagrad_kernels import _native
from adadagrad_kernels.backends import folders

globals().update(folders.ops(__name__, __path__))

if TYPE_CHECKING:

    def __getattr__(op: str) -> Any: ...


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    return _native.missing or _native.isa_refused
