"""Compiles Triton kernels ahead of time for any NVIDIA architecture, with no device and no driver.

A launch is specialised as Triton's just-in-time compiler would do it on a device: types of the
arguments, divisibility of addresses and sizes by 16, the integer 1 as a constant. The same code of
Triton decides it here, so what is compiled is what would be launched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from gpu_ladder.places import build_folder

#: Compute capabilities, in Triton's notation.
ARCHITECTURES = (80, 90, 100, 120)

#: Compiled kernels, by content; ignored by git.
CACHE = build_folder() / "triton"

#: Pointers that Triton appends to the parameters of every kernel: scratch memory of the grid and of
#: the profiler. Kernels that need neither (`Compiled.scratch_bytes` is 0) are given null.
TRAILING_POINTERS = 2


class Launch(Protocol):
    """What a launcher hands to an executor.

    Attributes:
        kernel: the ``triton.jit`` function.
        grid: how many programs, in one to three dimensions.
        arguments: positional; tensors, numbers, None, and tuples of these.
        constants: the ``tl.constexpr`` parameters by name.
        options: options of the compiler, such as ``num_warps``.
    """

    @property
    def kernel(self) -> Any: ...  # noqa: D102
    @property
    def grid(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def arguments(self) -> tuple[Any, ...]: ...  # noqa: D102
    @property
    def constants(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def options(self) -> dict[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Specialized:
    """A kernel as the compiler sees it, and the arguments that are left for run time.

    Attributes:
        kernel: the ``triton.jit`` function.
        architecture: the compute capability, such as 90.
        signature: the type of every parameter, by name.
        constants: values known to the compiler, by the path of their parameter.
        attributes: what is known of the others, such as divisibility by 16.
        options: options of the compiler.
        arguments: pairs of type and value, in the order of the machine code's parameters.
    """

    kernel: Any
    architecture: int
    signature: dict[str, Any]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]
    arguments: tuple[tuple[str, Any], ...]

    @property
    def key(self) -> str:
        """Equal for launches that run the same machine code."""
        facts = (self.signature, self.constants, self.attributes, self.options)
        return f"{self.kernel.cache_key} {self.architecture} {facts}"


@dataclass(frozen=True)
class Compiled:
    """What Triton emits for one architecture.

    Attributes:
        name: the entry's name in PTX.
        architecture: the compute capability.
        ptx: the text.
        cubin: the machine code, as ``nvdisasm`` and ``cuobjdump`` read it.
        shared_bytes: dynamic shared memory of a program.
        scratch_bytes: global scratch memory of a program.
        num_warps: warps of a program.
    """

    name: str
    architecture: int
    ptx: str
    cubin: bytes
    shared_bytes: int
    scratch_bytes: int
    num_warps: int


def specialize(launch: Launch, architecture: int) -> Specialized:
    """Decide, as Triton does at a launch, what the compiler may take for granted.

    Raises:
        ValueError: where the kernel was made for the interpreter.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    kernel = launch.kernel
    if not isinstance(kernel, JITFunction):
        raise ValueError(
            f"{kernel} is a {type(kernel).__name__}, which cannot be compiled; import the kernels "
            "in a process without TRITON_INTERPRET"
        )
    backend = make_backend(GPUTarget("cuda", architecture, 32))
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    given = {**launch.constants, **launch.options}
    bound, specialization, left = bind(*launch.arguments, **given)
    options, signature, constants, attributes = kernel._pack_args(
        backend, given, bound, specialization, left
    )
    return Specialized(
        kernel,
        architecture,
        signature,
        constants,
        {path: facts for path, facts in attributes.items() if facts},
        options.__dict__,
        tuple(_at_run_time(tuple(signature.values()), tuple(bound.values()))),
    )


def _at_run_time(types: Any, values: Any) -> Iterator[tuple[str, Any]]:
    for kind, value in zip(types, values, strict=True):
        if isinstance(kind, tuple):
            yield from _at_run_time(kind, value)
        elif kind != "constexpr":
            yield kind, value


_compiled: dict[str, Compiled] = {}


def compile_for(launch: Launch, architecture: int) -> tuple[Compiled, Specialized]:
    """What would run on a device of that architecture, from the cache where it is there."""
    special = specialize(launch, architecture)
    if special.key not in _compiled:
        _compiled[special.key] = _compile(special)
    return _compiled[special.key], special


def _compile(special: Specialized) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    os.environ.setdefault("TRITON_CACHE_DIR", str(CACHE))
    source = ASTSource(special.kernel, special.signature, special.constants, special.attributes)
    target = GPUTarget("cuda", special.architecture, 32)
    built = triton.compile(source, target=target, options=special.options)
    return Compiled(
        name=built.metadata.name,
        architecture=special.architecture,
        ptx=built.asm["ptx"],
        cubin=built.asm["cubin"],
        shared_bytes=built.metadata.shared,
        scratch_bytes=built.metadata.global_scratch_size,
        num_warps=built.metadata.num_warps,
    )


def kernels() -> list[Any]:
    """The kernels of this project, for the build gate; see `listing`."""
    from gpu_ladder.triton_checks.listing import kernels as listed

    return list(listed())
