"""What the GPU kernels move, counted while their PTX runs, against the least that the task needs.

Counted are sectors of 32 bytes that the warps' requests touch, as a device without caches would
move them. The device is small: two multiprocessors, so that a block takes many tiles, as it does
where a model's gradients are cut among the blocks of a large device. The counts are kept in
gpu_ladder/results/traffic.json, from which docs/internals/gpu_kernels.md is made:

    pytest python_tests/backends/test_gpu_traffic.py --write-traffic
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu_executions import PtxMachine, emulated_cuda, known_buffers, running_triton

from adadagrad_kernels import ops

KEPT = Path(__file__).parents[2] / "gpu_ladder" / "results" / "traffic.json"
ARCHITECTURE = "sm_90"

FEATURES = 1 << 16


@dataclass(frozen=True)
class Case:
    """A call, and the bytes it has to move.

    Attributes:
        kernel: the op.
        case: what it is given.
        make: gives the call; everything it uses is made before.
        least: bytes to read and to write, from the docstrings of the kernels.
        backend: whose kernels run.
        allowed: how often as much may be moved. Where programs read single numbers, such as where a
            run begins, each is a sector, which a cache would hold.
    """

    kernel: str
    case: str
    make: Callable[[], Callable[[], Any]]
    least: int
    backend: str = "cuda"
    allowed: float = 1.05


def _moments(
    samples: int, features: int, dtype: torch.dtype, variance: bool, products: bool
) -> Case:
    def make() -> Callable[[], Any]:
        grads = torch.randn(samples, features).to(dtype)
        return lambda: ops.batch_moments(grads, variance=variance, inner_products=products)

    reads = 1 if samples <= 1024 or not products else 2
    outputs = 4 * features * (2 if variance else 1) + 8 * samples * (2 if products else 1)
    asked = ["norms"] + ["variance"] * variance + ["products"] * products
    return Case(
        "batch_moments",
        f"{samples} x {features}, {str(dtype).removeprefix('torch.')}, {', '.join(asked)}",
        make,
        reads * samples * features * dtype.itemsize + outputs,
    )


def _fused(samples: int, features: int, dtype: torch.dtype) -> Case:
    def make() -> Callable[[], Any]:
        grads = torch.randn(samples, features).to(dtype)
        param, total = torch.randn(features).to(dtype), torch.rand(features).to(dtype)
        return lambda: ops.batch_adagrad_step_(param, total, grads, lr=0.1)

    whole = samples * features * dtype.itemsize + 4 * features * dtype.itemsize
    return Case(
        "batch_adagrad_step_",
        f"{samples} x {features}, {str(dtype).removeprefix('torch.')}, all",
        make,
        whole + 8 * features + 16 * samples,
    )


def _chunk(
    rows: int, features: int, dtype: torch.dtype, samples: int = 8, squares: bool = True
) -> Case:
    """Sum and squares are read where there are rows before, and written."""

    def make() -> Callable[[], Any]:
        sums = torch.rand(2, features)
        norms = torch.empty(rows, dtype=torch.float64)
        chunk = torch.randn(rows, features).to(dtype)
        spread = sums[1] if squares else None
        return lambda: ops.accumulate_moments_(sums[0], spread, norms, chunk, samples=samples)

    of_column = 4 * (1 + squares) * (2 if samples else 1)
    asked = "norms" + ", variance" * squares + ("" if samples else ", the first")
    return Case(
        "accumulate_moments_",
        f"{rows} x {features}, {str(dtype).removeprefix('torch.')}, {asked}",
        make,
        rows * features * dtype.itemsize + of_column * features + 8 * rows,
    )


def _updates(name: str, dtype: torch.dtype, rows: bool = False) -> Case:
    shapes = [(512, 512)] if rows else [(FEATURES * 4,)]
    size = sum(torch.Size(shape).numel() for shape in shapes)

    def make() -> Callable[[], Any]:
        params = [torch.randn(shape).to(dtype) for shape in shapes]
        grads = [torch.randn(shape).to(dtype) for shape in shapes]
        if name == "adagrad_step_":
            sums = [torch.rand(shape).to(dtype) for shape in shapes]
            return lambda: ops.adagrad_step_(params, grads, sums, lr=0.1, weight_decay=0.01)
        total: Any = torch.ones((), dtype=torch.float64)
        if rows:
            total = [torch.ones(shape[0], dtype=torch.float64) for shape in shapes]
        return lambda: ops.adagrad_norm_step_(params, grads, total, lr=0.1, weight_decay=0.01)

    # AdaGrad reads three tensors and writes two; AdaGrad-Norm reads two for the norm (with weight
    # decay), two more to move the parameters, and writes those.
    elements = 5
    extra = 16 * sum(shape[0] for shape in shapes) if rows else 0
    given = str(dtype).removeprefix("torch.") + (", by rows" if rows else "")
    return Case(name, f"{size} elements, {given}", make, elements * size * dtype.itemsize + extra)


def _norm_layer(samples: int, positions: int, features: int, dtype: torch.dtype) -> Case:
    """Each sample's row of contributions is written, and read by the kernel that adds them up."""

    def make() -> Callable[[], Any]:
        inputs, grads = torch.randn(2, samples, positions, features).to(dtype)
        mean, rstd = torch.randn(samples, positions, 1), torch.rand(samples, positions, 1)
        return lambda: ops.norm_layer_moments(inputs, grads, mean, rstd)

    elements = samples * positions * features
    rows = 2 * 4 * 2 * samples * features
    return Case(
        "norm_layer_moments",
        f"{samples} x {positions} x {features}, {str(dtype).removeprefix('torch.')}, norms",
        make,
        2 * elements * dtype.itemsize + 8 * samples * positions + rows + 8 * features + 8 * samples,
        "triton",
        1.1,
    )


def _embedding(samples: int, positions: int, features: int, rows: int, dtype: torch.dtype) -> Case:
    """The sums of runs are written and read; each row of a sample is looked up twice."""

    def make() -> Callable[[], Any]:
        indices = torch.stack([torch.randperm(rows)[: positions // 2] for _ in range(samples)])
        grads = torch.randn(samples, positions, features).to(dtype)
        return lambda: ops.embedding_moments(indices.repeat(1, 2), grads, rows)

    runs = samples * positions // 2
    elements = samples * positions * features
    return Case(
        "embedding_moments",
        f"{samples} x {positions} x {features}, {str(dtype).removeprefix('torch.')}, norms",
        make,
        elements * dtype.itemsize + 8 * runs * features + 4 * rows * features + 8 * samples,
        "triton",
        1.3,
    )


def _sparse(samples: int, features: int, dtype: torch.dtype) -> Case:
    """Rows with zeros; the parameters are read and written."""

    def make() -> Callable[[], Any]:
        rows = torch.randn(samples, features).to(dtype)
        param = torch.randn(features).to(dtype)
        return lambda: ops.sparse_mean_step_(param, rows, lr=0.1)

    return Case(
        "sparse_mean_step_",
        f"{samples} x {features}, {str(dtype).removeprefix('torch.')}",
        make,
        (samples + 2) * features * dtype.itemsize,
        "triton",
    )


F, B = torch.float32, torch.bfloat16
CASES = [
    _moments(64, FEATURES, F, False, False),
    _moments(64, FEATURES, F, True, False),
    _moments(64, FEATURES, F, True, True),
    _moments(64, FEATURES, B, True, True),
    _moments(8, FEATURES, F, True, True),
    _moments(512, FEATURES // 8, F, True, True),
    _moments(1024, FEATURES // 16, F, True, True),
    _moments(1024, FEATURES // 16, B, True, True),
    _moments(2048, FEATURES // 32, F, True, False),
    _moments(2048, FEATURES // 32, F, True, True),
    _fused(64, FEATURES, F),
    _fused(64, FEATURES, B),
    _chunk(4, FEATURES, F),
    _chunk(4, FEATURES, B),
    _chunk(1, FEATURES, F),
    _chunk(9, FEATURES, F, samples=0, squares=False),
    _chunk(64, FEATURES, F),
    _chunk(64, FEATURES, B),
    _chunk(1000, FEATURES // 32, F),
    _updates("adagrad_step_", F),
    _updates("adagrad_step_", B),
    _updates("adagrad_norm_step_", F),
    _updates("adagrad_norm_step_", B),
    _updates("adagrad_norm_step_", F, rows=True),
    _norm_layer(4, 256, 512, F),
    _norm_layer(4, 256, 512, B),
    _embedding(4, 128, 1024, 512, F),
    _embedding(4, 128, 1024, 512, B),
    _sparse(64, 1 << 13, F),
    _sparse(64, 1 << 13, B),
]


@contextmanager
def _cuda() -> Iterator[Any]:
    machine = PtxMachine(ARCHITECTURE, "forward")
    with emulated_cuda() as emulated, known_buffers(machine.add_buffer):
        emulated.set_launch_hook(machine)
        yield machine
        machine.assert_nothing_found()


def _count(case: Case) -> dict[str, Any]:
    with _cuda() if case.backend == "cuda" else running_triton(ARCHITECTURE, "forward") as machine:
        case.make()()
    loads = [report.global_loads for _, report in machine.reports]
    stores = [report.global_stores for _, report in machine.reports]
    moved = 32 * sum(total.sectors for total in (*loads, *stores))

    def per_request(totals: list[Any]) -> float:
        requests = sum(total.requests for total in totals)
        return round(sum(total.sectors for total in totals) / requests, 2)

    return {
        "kernel": f"{case.backend} {case.kernel}",
        "case": case.case,
        "architecture": ARCHITECTURE,
        "least_bytes": case.least,
        "moved_bytes": moved,
        "sectors_per_request_loads": per_request(loads),
        "sectors_per_request_stores": per_request(stores),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel}-{case.case}")
def test_moves_little_more_than_it_must(case: Case) -> None:
    counted = _count(case)
    assert counted["least_bytes"] <= counted["moved_bytes"] <= case.allowed * counted["least_bytes"]


def test_the_kept_counts_are_these(request: pytest.FixtureRequest) -> None:
    counted = [_count(case) for case in CASES]
    if request.config.getoption("--write-traffic"):
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(counted, indent=2) + "\n", encoding="utf-8")
    assert json.loads(KEPT.read_text(encoding="utf-8")) == counted, "run it with --write-traffic"


@pytest.mark.parametrize(("dtype", "sectors"), [(F, 5), (B, 3)], ids=["float32", "bfloat16"])
def test_rows_that_are_not_aligned_cost_requests_and_no_memory(
    dtype: torch.dtype, sectors: int
) -> None:
    """With an odd number of features no row but the first begins at a multiple of 16 bytes.

    A warp's 32 neighbouring elements then reach over one sector more than they fill, which the next
    request finds in the cache; of memory every sector is still needed once.
    """
    samples, features = 64, 16_385
    grads = torch.randn(samples, features).to(dtype)
    with _cuda() as machine:
        ops.batch_moments(grads)
    _, report = machine.reports[0]
    loads = report.global_loads
    assert loads.sectors <= sectors * loads.requests
    read = next(b for b in report.buffers if b.name == f"a tensor of shape {tuple(grads.shape)}")
    assert read.sectors_read <= grads.nbytes // 32 + 2
