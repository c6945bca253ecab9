"""Triton's interpreter under a checker: `with checked(...) as findings`.

Everything that kernels load, store and update atomically inside the context is looked up in a
`Shadow`: exact extents of every buffer, elements that were never written, and elements that two
programs of one launch must not both touch. What is out of bounds is reported and not performed.
The programs run one after the other, in any of `ORDERS`; races are found whatever the order.

Traps of the interpreter that are taken out of the way:

* it truncates where float32 becomes bfloat16; here it rounds to the nearest even, as devices do;
* NumPy warns of what is not finite, and kernels must be silent about it;
* every call of a device function would patch Triton's language again, for milliseconds, and leave
  it so; here it is patched once, and back when the context ends.

Kernels must be imported with TRITON_INTERPRET=1 set before Triton is, hence in a process in which
nothing is compiled.

What it cannot show: bfloat16 arithmetic (kernels must convert to float32 after the load), fused
multiplication and addition, approximate division and roots, layouts, shared memory, anything that
the compiler does. See `ptx_executor` for those.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_ladder.triton_checks.allocations import Watch
from gpu_ladder.triton_checks.shadow import LARGEST, Access, Finding, Shadow

ORDERS = ("forward", "reverse", "random")


@contextlib.contextmanager
def checked(
    buffers: Mapping[str, Tensor] | None = None, order: str = "forward", seed: int = 0
) -> Iterator[list[Finding]]:
    """Check every kernel that the interpreter runs inside the context.

    Args:
        buffers: tensors with names, of which exactly the elements may be touched. Others become
            known when a kernel is given them; those made inside the context by ``torch.empty``
            and its like hold nothing until something writes them.
        order: in which the programs of a launch run, one of `ORDERS`.
        seed: of the random order.

    Returns:
        The findings, one for each kind and line of a kernel, growing as the kernels run.

    Raises:
        ValueError: for an unknown order.
        RuntimeError: where Triton was imported without TRITON_INTERPRET=1.
    """
    if order not in ORDERS:
        raise ValueError(f"the order is {order!r}; accepted are {', '.join(ORDERS)}")
    import triton
    from triton.runtime import interpreter

    if not triton.knobs.runtime.interpret:
        raise RuntimeError("set TRITON_INTERPRET=1 before Triton is imported")
    shadow = Shadow()
    for name, tensor in (buffers or {}).items():
        shadow.add(name, tensor)
    hooks = _Hooks(interpreter, shadow, order, seed)
    language = SimpleNamespace(__globals__={"tl": triton.language, "core": triton.language.core})
    with contextlib.ExitStack() as stack:
        stack.callback(interpreter._patch_lang(language).restore)
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(_Allocations(shadow))
        for owner, name, replacement in hooks.replacements():
            stack.enter_context(_replaced(owner, name, replacement))
        yield shadow.findings


@contextlib.contextmanager
def _replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    missing = object()
    before = owner.__dict__.get(name, missing)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


class _Allocations(Watch):  # type: ignore[no-untyped-call]
    """Tells the shadow what torch allocates, and what it writes."""

    def __init__(self, shadow: Shadow) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shadow = shadow

    def on_empty(self, name: str, tensor: Tensor) -> None:
        """Views of what is too large are known by the kernels that are given them."""
        if tensor.numel() <= LARGEST:
            self._shadow.add(name, tensor, written=False)

    def on_write(self, tensor: Tensor) -> None:
        """Torch has written all of it."""
        self._shadow.mark_written(tensor)


class _Hooks:
    """The interpreter's functions, each with a look at the shadow before it."""

    def __init__(self, interpreter: Any, shadow: Shadow, order: str, seed: int) -> None:
        self._interpreter = interpreter
        self._builder = interpreter.interpreter_builder
        self._shadow = shadow
        self._order = order
        self._random = random.Random(seed)
        self._places: list[int] = []
        self._program = 0

    def replacements(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """What to replace: owner, name and function."""
        grid = self._interpreter.GridExecutor
        builder = self._builder
        original = {
            name: getattr(builder, name)
            for name in ("set_grid_dim", "set_grid_idx", "create_atomic_rmw", "create_atomic_cas",
                         "cast_impl")
        }  # fmt: skip
        arguments = grid._init_args_hst

        def see_arguments(executor: Any, positional: Any, named: Any) -> Any:
            self._launch = executor.fn.__name__
            names = iter(executor.arg_names)
            for name, value in [*zip(names, positional, strict=False), *named.items()]:
                self._add(name, value)
            return arguments(executor, positional, named)

        def begin(x: int, y: int, z: int) -> None:
            self._begin(x * y * z)
            original["set_grid_dim"](x, y, z)

        def next_program(x: int, y: int, z: int) -> None:
            _, height, depth = builder.grid_dim
            place = self._places[(x * height + y) * depth + z]
            self._program = place
            original["set_grid_idx"](place // (height * depth), place // depth % height,
                                     place % depth)  # fmt: skip

        def update(operation: Any, pointers: Any, values: Any, mask: Any, *rest: Any) -> Any:
            mask = self._allow(pointers, mask, values.data, atomic=True)
            return original["create_atomic_rmw"](operation, pointers, values, mask, *rest)

        def exchange(pointers: Any, expected: Any, values: Any, *rest: Any) -> Any:
            # Without a mask to leave it out, what is out of bounds cannot go on.
            everything = self._interpreter.TensorHandle(
                np.ones(pointers.data.shape, bool), self._interpreter.tl.int1
            )
            if not self._allow(pointers, everything, values.data, atomic=True).data.all():
                raise IndexError(str(self._shadow.findings[-1]))
            return original["create_atomic_cas"](pointers, expected, values, *rest)

        def cast(source: Any, kind: Any) -> Any:
            return self._round(source, kind) or original["cast_impl"](source, kind)

        return [
            (grid, "_init_args_hst", see_arguments),
            # The interpreter copies storages back, here onto themselves: to the shadow, writes.
            (grid, "_restore_args_dev", lambda *_: None),
            # The language is patched once for all: see `checked`.
            (self._interpreter, "_patch_lang", lambda _: self._interpreter._LangPatchScope()),
            (builder, "set_grid_dim", begin),
            (builder, "set_grid_idx", next_program),
            (builder, "create_masked_load", self._load),
            (builder, "create_masked_store", self._store),
            (builder, "create_atomic_rmw", update),
            (builder, "create_atomic_cas", exchange),
            (builder, "cast_impl", cast),
        ]

    def _add(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self._shadow.add(name, value)
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                self._add(f"{name}[{index}]", item)

    def _begin(self, programs: int) -> None:
        self._shadow.begin_launch(self._launch, programs)
        self._places = list(range(programs))
        if self._order == "reverse":
            self._places.reverse()
        elif self._order == "random":
            self._random.shuffle(self._places)

    def _load(self, pointers: Any, mask: Any, other: Any, *_: Any) -> Any:
        kind = pointers.get_element_ty()
        dtype = self._interpreter._get_np_dtype(kind)
        mask = self._allow(pointers, mask, None)
        otherwise = np.zeros(pointers.data.shape, dtype) if other is None else other.data
        native = self._interpreter._interpreter
        values = native.load(pointers.data, mask.data, otherwise, dtype)
        return self._interpreter.TensorHandle(values, kind)

    def _store(self, pointers: Any, values: Any, mask: Any, *_: Any) -> Any:
        mask = self._allow(pointers, mask, values.data)
        return self._interpreter._interpreter.store(pointers.data, values.data, mask.data)

    def _allow(self, pointers: Any, mask: Any, values: Any, atomic: bool = False) -> Any:
        """The mask, without what must not be performed; ``values`` are None for a load."""
        wanted = np.broadcast_to(mask.data, pointers.data.shape)
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        stored = None
        if values is not None:
            stored = np.ascontiguousarray(np.broadcast_to(values, wanted.shape)[wanted])
        access = Access(pointers.data[wanted], size, values is not None, atomic, stored)
        allowed = wanted.copy()
        allowed[wanted] = self._shadow.check(access, self._program, _site(sys._getframe(2)))
        return self._interpreter.TensorHandle(allowed, self._interpreter.tl.int1)

    def _round(self, source: Any, kind: Any) -> Any:
        """bfloat16 nearest to float32, even where two are; None for other conversions."""
        language = self._interpreter.tl
        if source.dtype.scalar != language.float32 or kind.scalar != language.bfloat16:
            return None
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.bfloat16)
        bits = rounded.view(torch.int16).numpy().view(np.uint16)
        return self._interpreter.TensorHandle(bits, language.bfloat16)


def _site(frame: FrameType | None) -> str:
    """Where in a kernel something happens: the innermost line first, then who called it."""
    lines: list[str] = []
    while frame is not None:
        path = frame.f_code.co_filename
        if "interpreter_semantic" in frame.f_globals and "/triton/" not in path.replace(
            "/backends/triton/", ""
        ):
            lines.append(f"{path}:{frame.f_lineno}")
        elif lines and frame.f_code.co_name == "next_program":
            break
        frame = frame.f_back
    return " <- ".join(lines) or "outside of a kernel"
