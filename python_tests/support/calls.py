"""One valid call of every op, for tests that ask the same of all of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from adadagrad_kernels import backends, ops
from adadagrad_kernels.ops import _lists
from support.product_calls import PRODUCT_CALLS, product_arguments
from support.row_calls import ROW_CALLS, row_arguments
from support.sparse_calls import SPARSE_CALLS, sparse_arguments

SHAPES = [(31, 33), (4099,), (), (0,), (3, 5, 2), (700, 20)]


@dataclass
class Call:
    """A function with its arguments; ``read`` and ``written`` name those that are tensors.

    ``operator`` and ``positional`` are the same call through the dispatcher.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    written: dict[str, Any]
    read: dict[str, Any]
    operator: Any
    positional: tuple[Any, ...]

    def __call__(self) -> list[Tensor]:
        """Run it; everything that came back or was updated."""
        return [*tensors(self.function(*self.arguments, **self.keywords)), *tensors(self.written)]


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from tensors(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from tensors(branch)


_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def tensor_by_tensor() -> Iterator[None]:
    """Have ops look at each tensor of a list, as they do where a backend cannot read the whole.

    One thread at a time: another one that put back what it had found would leave it so for good.
    """
    with _ONE_AT_A_TIME, mock.patch.object(_lists, "PLAIN_TYPES", ()):
        yield


def make_call(
    name: str,
    dtype: torch.dtype = torch.float32,
    samples: int = 9,
    features: int = 4099,
    shapes: list[tuple[int, ...]] | None = None,
    place: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Call:
    """A call by name; ``place`` may put each tensor somewhere else in memory."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return place(torch.randn(shape, generator=generator).to(dtype))

    def positive(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return place((torch.rand(shape, generator=generator) + 0.1).to(kind))

    registered = torch.ops.adadagrad_kernels
    settings = {"lr": 0.1, "eps": 1e-10, "weight_decay": 0.01, "maximize": False}
    scaled = {**settings, "grad_scale": 4.0}
    if name in ("batch_moments", "batch_adagrad_step_"):
        asked = {"variance": True, "inner_products": True}
        grads = normal(samples, features)
        operator = getattr(registered, name).default
        if name == "batch_moments":
            positional = (grads, True, True)
            read = {"per_sample_grads": grads}
            return Call(ops.batch_moments, (grads,), asked, {}, read, operator, positional)
        arguments = (normal(features), positive(features), grads)
        written = {"param": arguments[0], "state_sum": arguments[1]}
        keywords = {**settings, **asked}
        positional = (*arguments, *keywords.values())
        read = {"per_sample_grads": grads}
        return Call(ops.batch_adagrad_step_, arguments, keywords, written, read, operator,
                    positional)  # fmt: skip
    if name.startswith("accumulate_moments_"):
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        first = "first" in name
        sums = {"sum": positive(features, kind=kind)}
        sums["squares"] = None if first else positive(features, kind=kind)
        sums["sq_norms"] = positive(samples, kind=torch.float64)
        chunk, before = normal(samples, features), 0 if first else 5
        arguments = (*sums.values(), chunk)
        return Call(ops.accumulate_moments_, arguments, {"samples": before}, sums,
                    {"chunk": chunk}, registered.accumulate_moments_.default,
                    (*arguments, before))  # fmt: skip
    if name.startswith(("linear_moments", "conv_moments")):
        return Call(*product_arguments(name, normal, samples, features))
    if name.startswith(("norm_layer_moments", "embedding_moments")):
        return Call(*row_arguments(name, normal, samples, features))
    if name.startswith("sparse_mean_step_"):
        return Call(*sparse_arguments(name, normal, positive, place, samples, features))
    shapes = SHAPES if shapes is None else shapes
    params = [normal(*shape) for shape in shapes]
    read = {"grads": [normal(*shape) for shape in shapes]}
    if name.startswith("adagrad_step_"):
        sums = [positive(*shape) for shape in shapes]
        arguments = (params, read["grads"], sums)
        written = {"params": params, "state_sums": sums}
        step = ops.adagrad_step_
        function = tensor_by_tensor()(step) if name.endswith("by tensor") else step
        return Call(function, arguments, scaled, written, read,
                    registered.adagrad_step_.default, (*arguments, *scaled.values()))  # fmt: skip
    row_wise = name.endswith("rows")
    accumulators: Any
    if row_wise:
        accumulators = [positive(*shape[:1] or (1,), kind=torch.float64) for shape in shapes]
    else:
        accumulators = positive(kind=torch.float64)
    written = {"params": params, "accumulators": accumulators}
    step = ops.adagrad_norm_step_
    function = tensor_by_tensor()(step) if "by tensor" in name else step
    positional = (params, read["grads"], list(tensors(accumulators)), row_wise, *scaled.values())
    return Call(function, (params, read["grads"], accumulators), scaled, written,
                read, registered.adagrad_norm_step_.default, positional)  # fmt: skip


#: Every op; a chunk added to other rows, and the first one, without squares; updates of lists that
#: a backend may read as a whole, and of lists whose tensors are looked at one by one; AdaGrad-Norm
#: with one accumulator and with one per row.
CALLS = (
    "batch_moments",
    "batch_adagrad_step_",
    "accumulate_moments_",
    "accumulate_moments_ of first rows",
    "adagrad_step_",
    "adagrad_step_ tensor by tensor",
    "adagrad_norm_step_",
    "adagrad_norm_step_ tensor by tensor",
    "adagrad_norm_step_ by rows",
    "adagrad_norm_step_ tensor by tensor by rows",
    *PRODUCT_CALLS,
    *ROW_CALLS,
    *SPARSE_CALLS,
)

#: Those that update lists of tensors.
UPDATES = tuple(name for name in CALLS if name.startswith(("adagrad_step_", "adagrad_norm_step_")))


#: Ops made of products of torch and of passes over what these give: they run where the passes do.
COMPOSITES = ("linear_moments", "conv_moments")
PASSES = ("batch_moments", "accumulate_moments_")


def runs(backend: backends.Backend, op: str) -> bool:
    """Whether a backend asked for by name runs an op."""
    needed = PASSES if op in COMPOSITES else (op,)
    return all(hasattr(backend.module, each) for each in needed)


def op_under_test(file: str, name: str) -> str | None:
    """The op of the call ``name`` that a test is parametrized by, or that of its file."""
    plain = file.removeprefix("test_")
    candidates = (name.partition(" ")[0], plain, f"{plain}_")
    return next((op for op in candidates if op in ops.__all__), None)


def calls_of(way: str) -> tuple[str, ...]:
    """The calls of ops that a backend runs; ``way`` is its name, or a way to run it."""
    backend = backends.BACKENDS[way.partition("-")[0]]
    return tuple(name for name in CALLS if runs(backend, name.partition(" ")[0]))
