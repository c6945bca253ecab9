"""Registration with torch.library, the same three calls for every op.

The public functions call the backends directly in eager mode, because a trip through the
dispatcher costs several microseconds; under torch.compile they call the registered op, which the
compiler keeps as one node of its graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.backends.outputs import BatchMoments, LayerMoments, in_schema

_LIBRARY: Any = torch.library.Library("adadagrad_kernels", "DEF")  # type: ignore[no-untyped-call]


def register(
    schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Define an op, run ``implementation`` on every device, and trace it with ``fake``.

    Either gives back nothing, a tensor or one of the records of ``backends.outputs``.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, _as_in_schema(implementation), "CompositeExplicitAutograd")
    traced = _on_one_device(name, _as_in_schema(fake))
    torch.library.register_fake(f"adadagrad_kernels::{name}", traced, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.adadagrad_kernels, name)
    return operator


def _on_one_device(name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses what the op refuses: with one meta tensor among real ones, torch comes here alone."""

    @functools.wraps(fake)
    def trace(*arguments: Any) -> Any:
        lists = [each if isinstance(each, list | tuple) else [each] for each in arguments]
        devices = {str(t.device) for each in lists for t in each if isinstance(t, Tensor)}
        if len(devices) > 1:
            raise ValueError(
                f"{name} was given tensors on {' and '.join(sorted(devices))}; they must be on "
                "one device"
            )
        return fake(*arguments)

    return trace


def _as_in_schema(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        result = function(*arguments)
        return in_schema(result) if isinstance(result, BatchMoments | LayerMoments) else result

    return run
