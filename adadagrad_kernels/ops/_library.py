"""Registration with torch.library, the same three calls for every op.

The public functions call the backends directly in eager mode, because a trip through the
dispatcher costs several microseconds; under torch.compile they call the registered op, which the
compiler keeps as one node of its graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY: Any = torch.library.Library("adadagrad_kernels", "DEF")  # type: ignore[no-untyped-call]


def register(
    schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Define an op, run ``implementation`` on every device, and trace it with ``fake``."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"adadagrad_kernels::{name}", fake, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.adadagrad_kernels, name)
    return operator
