"""The CUDA kernels give the same bits in every order of threads, and on every architecture.

The source executed on the host and the PTX of each architecture agree too, bit by bit: products and
sums are fused where the source says so, roots and divisions are IEEE's, and sums have one order.
"""

from __future__ import annotations

import functools

import pytest
import torch
from support.calls import UPDATES, make_call
from support.gpu_executions import (
    ARCHITECTURES,
    SCHEDULES,
    PtxMachine,
    emulated_cuda,
    known_buffers,
)

# Few rows, many, and so many that they are cut into groups; several tiles for each block.
SHAPES = [(3, 4099), (70, 1100), (1100, 140)]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LISTS = [(31, 33), (), (0, 5), (4099,), (7, 3), (3, 5000)]


def _bits(results: list[torch.Tensor]) -> list[bytes]:
    return [result.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for result in results]


def _run(name: str, dtype: torch.dtype, shape: tuple[int, int]) -> list[bytes]:
    return _bits(make_call(name, dtype, *shape, shapes=LISTS)())


@functools.cache
def _on_host(name: str, dtype: torch.dtype, shape: tuple[int, int], order: str) -> list[bytes]:
    with emulated_cuda() as emulated:
        emulated.set_schedule(order, seed=3)
        return _run(name, dtype, shape)


STATISTICS = ("batch_moments", "batch_adagrad_step_", "accumulate_moments_")
CASES = [
    *((name, shape) for name in STATISTICS for shape in SHAPES),
    *((name, (1, 1)) for name in UPDATES),
]
every_case = pytest.mark.parametrize(
    ("name", "shape"), CASES, ids=[f"{name}-{shape[0]}x{shape[1]}" for name, shape in CASES]
)


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_order_of_threads(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    first, *others = (_on_host(name, dtype, shape, order) for order in SCHEDULES)
    assert all(other == first for other in others)


#: The one that is compiled by day in any case: nvcc takes minutes for the others.
BY_DAY = "sm_90"


@every_case
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=[] if a == BY_DAY else pytest.mark.nightly) for a in ARCHITECTURES],
)
def test_every_architecture(
    architecture: str, name: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    expected = _on_host(name, dtype, shape, "forward")
    order = SCHEDULES[ARCHITECTURES.index(architecture) % len(SCHEDULES)]
    machine = PtxMachine(architecture, order, checks=False)
    with emulated_cuda() as emulated, known_buffers(machine.add_buffer):
        emulated.set_launch_hook(machine)
        assert _run(name, dtype, shape) == expected
        machine.assert_nothing_found()
    assert machine.reports, "nothing was launched"
