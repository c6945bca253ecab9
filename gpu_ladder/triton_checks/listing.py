"""This project's Triton kernels with the signatures they are launched with, for the build gate.

The launches are those of the backend, recorded and not run: for each element type every shape of
tile, aligned and not, and lists of one tensor and of several. Another project writes a module of
its own with a function `kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from adadagrad_kernels.backends.rule import AdagradRule
from gpu_ladder.triton_checks.compile import Compiled, Launch, compile_for, specialize

#: Rows of G for every tile that holds all of them, and one that has to cut them.
SAMPLES = (16, 32, 64, 128, 256, 1000)
SOME_SAMPLES = (64, 1000)
FEATURES = 4096
#: Short for the names of kernels.
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class ListedKernel:
    """A kernel as one launch specialises it.

    Args:
        name: The kernel, the element type, and what else tells it from others.
        launch: One of the launches that use it.

    Attributes:
        name: See above.
        num_warps: Warps of a program.
    """

    def __init__(self, name: str, launch: Launch) -> None:
        self.name = name
        self.num_warps: int = launch.options["num_warps"]
        self._launch = launch

    def compiled(self, architecture: int) -> Compiled:
        """Everything Triton emits."""
        return compile_for(self._launch, architecture)[0]

    def cubin(self, architecture: int) -> bytes:
        """Machine code."""
        return self.compiled(architecture).cubin

    def ptx(self, architecture: int) -> str:
        """What it was assembled from."""
        return self.compiled(architecture).ptx

    def shared(self, architecture: int) -> int:
        """Bytes of shared memory that a launch asks for."""
        return self.compiled(architecture).shared_bytes


def kernels() -> list[ListedKernel]:
    """All of them, each once, in a fixed order."""
    listed: dict[str, ListedKernel] = {}
    names: dict[str, int] = {}
    for case, run in _cases():
        for launch in recorded(run):
            key = specialize(launch, 90).key
            if key not in listed:
                name = _name(launch, case)
                names[name] = names.get(name, 0) + 1
                suffix = f" ({names[name]})" if names[name] > 1 else ""
                listed[key] = ListedKernel(name + suffix, launch)
    return list(listed.values())


def first(kernel: str, case: str) -> ListedKernel:
    """The first launch of a kernel in the cases of one name, or one that begins with it."""
    for name, run in _cases():
        if name.startswith(case):
            for launch in recorded(run):
                if launch.kernel.__name__ == kernel:
                    return ListedKernel(_name(launch, name), launch)
    raise LookupError(f"no case {case!r} launches {kernel}")


def recorded(run: Callable[[], object]) -> list[Launch]:
    """The launches of a call of the backend, which are not performed."""
    from adadagrad_kernels.backends.triton import _launch

    launches: list[Launch] = []
    previous = _launch.set_executor(launches.append)
    try:
        run()
    finally:
        _launch.set_executor(previous)
    return launches


def _name(launch: Launch, case: str) -> str:
    words = [launch.kernel.__name__.removesuffix("_kernel"), case]
    constants = launch.constants
    if "ROWS" in constants:
        words.append(f"{constants['ROWS']}x{constants['COLUMNS']}")
    return " ".join(words)


def _cases() -> Iterator[tuple[str, Callable[[], object]]]:
    for dtype, name in TYPES.items():
        whole = dtype != torch.float16  # which is loaded and stored as bfloat16 is
        yield from _moments_cases(dtype, name, SAMPLES if whole else SOME_SAMPLES)
        yield from _accumulate_cases(dtype, name)
        yield from _norm_cases(dtype, name)
        yield from _embedding_cases(dtype, name)
        yield from _sparse_cases(dtype, name)
        counts = {name: (1, 0), f"{name} list": (3, 0), f"{name} unaligned": (1, 1)}
        yield from _list_cases(dtype, counts if whole else {name: (1, 0)})


def _moments_cases(
    dtype: torch.dtype, name: str, several: tuple[int, ...]
) -> Iterator[tuple[str, Callable[[], object]]]:
    from adadagrad_kernels.backends import triton as backend

    def moments(samples: int, features: int) -> None:
        backend.batch_moments(torch.empty(samples, features, dtype=dtype), True, True)

    def step(samples: int) -> None:
        grads = torch.empty(samples, FEATURES, dtype=dtype)
        updated = torch.empty(2, FEATURES, dtype=dtype)
        rule = AdagradRule(0.1, 1e-10, 0.01, False)
        backend.batch_adagrad_step_(updated[0], updated[1], grads, rule, True, True)

    for samples in SOME_SAMPLES:
        yield name, partial(moments, samples, FEATURES)
        yield f"{name} unaligned", partial(moments, samples, FEATURES + 1)
    yield f"{name} narrow", partial(moments, max(SAMPLES), 64)
    for samples in several:
        yield f"{name} with step", partial(step, samples)


def _accumulate_cases(dtype: torch.dtype, name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    from adadagrad_kernels.backends import triton as backend

    def accumulate(rows: int, features: int, samples: int, squares: bool) -> None:
        sums = torch.empty(2, features)
        backend.accumulate_moments_(
            sums[0],
            sums[1] if squares else None,
            torch.empty(rows, dtype=torch.float64),
            torch.empty(rows, features, dtype=dtype),
            samples,
        )

    yield name, partial(accumulate, 4, 1 << 16, 9, True)
    if dtype == torch.float16:
        return
    yield name, partial(accumulate, 1000, 4096, 9, True)
    yield f"{name} first", partial(accumulate, 4, 1 << 16, 0, True)
    yield f"{name} sums", partial(accumulate, 4, 1 << 16, 9, False)
    for rows in (4, 1000):
        yield f"{name} unaligned", partial(accumulate, rows, 4097, 9, True)


def _norm_cases(dtype: torch.dtype, name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Statistics by position with features side by side, by group with positions side by side."""
    from adadagrad_kernels.backends import triton as backend

    def moments(positions: int, features: int, groups: int | None, bias: bool) -> None:
        shape = (8, positions, features)
        if groups:
            shape = (8, features, positions)
        inputs, grads = (torch.empty(shape, dtype=dtype) for _ in range(2))
        if groups:
            inputs, grads = inputs.mT, grads.mT
        rstd = torch.empty(8, 1, groups) if groups else torch.empty(8, positions, 1)
        mean = torch.empty_like(rstd) if bias else None
        backend.norm_layer_moments(inputs, grads, mean, rstd, bias, True, True)

    yield f"{name} positions", partial(moments, 64, 768, None, True)
    yield f"{name} groups", partial(moments, 256, 64, 8, True)
    if dtype == torch.float16:
        return
    yield f"{name} root", partial(moments, 64, 768, None, False)
    yield f"{name} unaligned", partial(moments, 63, 767, None, True)


def _embedding_cases(dtype: torch.dtype, name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    from adadagrad_kernels.backends import triton as backend

    def moments(features: int) -> None:
        indices = torch.arange(64).view(8, 8)
        grads = torch.empty(8, 8, features, dtype=dtype)
        backend.embedding_moments(indices, grads, 64, -1, True, True)

    yield name, partial(moments, 768)
    if dtype != torch.float16:
        yield f"{name} unaligned", partial(moments, 767)


def _sparse_cases(dtype: torch.dtype, name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    from adadagrad_kernels.backends import triton as backend

    def step(stored: bool, features: int) -> None:
        param, total = torch.empty(2, features, dtype=dtype)
        offset, probabilities = torch.empty(2, features)
        crow, col, values = None, None, torch.empty(64, features, dtype=dtype)
        if stored:
            crow, col = torch.arange(0, 65, 8), torch.arange(64)
            values = torch.empty(64, dtype=dtype)
        backend.sparse_mean_step_(
            param, crow, col, values, 0.1, "adabatch", 0.01, probabilities, offset, total, 1e-10
        )

    yield name, partial(step, True, 4096)
    yield name, partial(step, False, 4096)
    if dtype != torch.float16:
        yield f"{name} unaligned", partial(step, False, 4097)


def _list_cases(
    dtype: torch.dtype, counts: dict[str, tuple[int, int]]
) -> Iterator[tuple[str, Callable[[], object]]]:
    from adadagrad_kernels.backends import triton as backend

    rule = AdagradRule(0.1, 1e-10, 0.01, False, 2.0, torch.zeros(()))

    def tensors(count: int, offset: int, rows: int = 1) -> list[Tensor]:
        memory = (torch.empty(offset + FEATURES, dtype=dtype) for _ in range(count))
        return [tensor[offset:].view(rows, -1) for tensor in memory]

    def adagrad(*which: int) -> None:
        backend.adagrad_step_(tensors(*which), tensors(*which), tensors(*which), rule)

    def norm(row_wise: bool, *which: int) -> None:
        params = tensors(*which)
        sums = [torch.empty(param.shape[0], dtype=torch.float64) for param in params]
        backend.adagrad_norm_step_(params, tensors(*which), sums, row_wise, rule)

    for case, which in counts.items():
        yield case, partial(adagrad, *which)
        yield case, partial(norm, False, *which)
        for rows in (256, 32, 2):
            yield case, partial(norm, True, *which, rows)
