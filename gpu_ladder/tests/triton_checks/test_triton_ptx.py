"""What Triton emits for each architecture, executed with every check, against the oracles."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed; pip install triton")

import triton_ptx_cases as cases

from adadagrad_kernels.backends.triton._launch import Launch, set_executor
from gpu_ladder.ptx import Report
from gpu_ladder.triton_checks.compile import ARCHITECTURES
from gpu_ladder.triton_checks.ptx_executor import PtxExecutor

#: float16 differs from bfloat16 in conversions only: one architecture shows it.
TYPES = [(architecture, dtype) for architecture in ARCHITECTURES
         for dtype in (torch.float32, torch.bfloat16)] + [(90, torch.float16)]  # fmt: skip
ORDERS = ("forward", "reverse", "random")

#: What CI compiles in any case; the others run by night, where the bits of all are compared.
BY_DAY = 90

architectures_and_types = pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        each if each[0] == BY_DAY else pytest.param(*each, marks=pytest.mark.nightly)
        for each in TYPES
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)


def _run(op: str, architecture: int, dtype: torch.dtype, shape: tuple[int, int] | None = None):
    """The results' bits, judged, without a finding."""
    order = ORDERS[ARCHITECTURES.index(architecture) % len(ORDERS)]
    case = cases.make_case(op, dtype, shape)
    with PtxExecutor(architecture, order).running(set_executor) as executor:
        results = case.run()
    assert not executor.findings
    case.judge()
    return cases.bits(results)


@functools.cache
def _first(op: str, dtype: torch.dtype, shape: tuple[int, int] | None = None) -> list[bytes]:
    return _run(op, BY_DAY, dtype, shape)


@architectures_and_types
@pytest.mark.parametrize("shape", cases.MOMENTS, ids=lambda shape: "x".join(map(str, shape)))
def test_batch_moments(architecture: int, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """The same bits for every architecture and in every order, because nothing is fused."""
    result = _run("batch_moments", architecture, dtype, shape)
    assert result == _first("batch_moments", dtype, shape)


@architectures_and_types
@pytest.mark.parametrize("shape", cases.CHUNKS, ids=lambda shape: "x".join(map(str, shape)))
def test_accumulate_moments(architecture: int, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    result = _run("accumulate_moments_", architecture, dtype, shape)
    assert result == _first("accumulate_moments_", dtype, shape)


@architectures_and_types
@pytest.mark.parametrize("shape", [(9, 31), (32, 512), (128, 256), (250, 70), (600, 300)])
def test_batch_adagrad_step(architecture: int, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    result = _run("batch_adagrad_step_", architecture, dtype, shape)
    assert result == _first("batch_adagrad_step_", dtype, shape)


OF_LAYERS = [
    *(("norm_layer_moments", shape) for shape in cases.NORMS),
    *(("embedding_moments", shape) for shape in cases.EMBEDDINGS),
    *(("sparse_mean_step_", shape) for shape in cases.SPARSE),
]
each_of_layers = pytest.mark.parametrize(("op", "shape"), OF_LAYERS, ids=str)


@each_of_layers
@pytest.mark.parametrize(
    ("architecture", "dtype"), [(90, torch.float32), (ARCHITECTURES[-1], torch.bfloat16)], ids=str
)
def test_ops_of_layers(architecture: int, dtype: torch.dtype, op: str, shape: tuple) -> None:
    _run(op, architecture, dtype, shape)


@pytest.mark.nightly
@each_of_layers
@pytest.mark.parametrize(("architecture", "dtype"), TYPES, ids=str)
def test_bits_of_ops_of_layers(
    architecture: int, dtype: torch.dtype, op: str, shape: tuple
) -> None:
    assert _run(op, architecture, dtype, shape) == _first(op, dtype, shape)


@architectures_and_types
@pytest.mark.parametrize("op", ["adagrad_step_", "adagrad_norm_step_", "adagrad_norm_step_ rows"])
def test_updates_of_lists(architecture: int, dtype: torch.dtype, op: str) -> None:
    assert _run(op, architecture, dtype) == _first(op, dtype)


def test_rows_gigabytes_apart() -> None:
    """Offsets of more than 2^32 elements; of the memory in between nothing is touched."""
    try:
        memory = torch.empty(2**32 + 100, dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"this machine does not give 8 GB of address space: {error}")
    near, expected = cases.oracles.shared_case(2, 50, torch.bfloat16)
    far = memory.as_strided((2, 50), (2**32 + 7, 1), 3)
    far.copy_(near)
    with PtxExecutor(90).running(set_executor) as executor:
        outputs = cases.backend.batch_moments(far, True, True)
    assert not executor.findings
    cases.oracles.assert_moments(outputs, expected)


def _planted(architecture: int, name: str, programs: int, *arguments: object, **constants: int):
    import planted_kernels

    launch = Launch(getattr(planted_kernels, name), (programs,), arguments, constants, 1)
    with PtxExecutor(architecture).running(set_executor) as executor:
        executor(launch)
    return {finding.kind for _, finding in executor.findings}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_planted_faults_are_found(architecture: int) -> None:
    run = functools.partial(_planted, architecture)
    source, target = torch.randn(3, 100)[1], torch.zeros(3, 100)[1]
    assert run("double", 4, source, target, 100, BLOCK=32) == set()
    assert torch.equal(target, 2 * source)
    for fault in ("store_without_mask", "load_without_mask"):
        assert run(fault, 4, source, target, 100, BLOCK=32) == {"out_of_bounds"}
    rows = torch.randn(5, 8)[:, :6]
    assert run("copy_rows", 1, rows, torch.zeros(5, 6), 8, 5, 6, ROWS=8, COLUMNS=8) == set()
    assert "out_of_bounds" in run(
        "copy_rows", 1, rows, torch.zeros(5, 6), 9, 5, 6, ROWS=8, COLUMNS=8
    )
    assert run("count", 5, torch.zeros(1)) == {"race"}
    assert run("write_own_number", 5, torch.zeros(1, dtype=torch.int32)) == {"race"}
    assert run("count_atomically", 5, torch.zeros(1)) == set()


def test_unwritten_memory_is_found() -> None:
    import planted_kernels

    with PtxExecutor(90).running(set_executor) as executor:
        source, target = torch.empty(64), torch.empty(64)
        arguments = (source, target, 64)
        executor(Launch(planted_kernels.double, (2,), arguments, {"BLOCK": 32}, 1))
    assert {finding.kind for _, finding in executor.findings} == {"uninitialised"}


def test_what_torch_writes_to_an_output_is_written() -> None:
    import planted_kernels

    with PtxExecutor(90).running(set_executor) as executor:
        source, target = torch.empty(64), torch.empty(64)
        torch.mul(torch.ones(64), 2, out=source)
        executor(Launch(planted_kernels.double, (2,), (source, target, 64), {"BLOCK": 32}, 1))
    assert not executor.findings


def _reports(op: str, dtype: torch.dtype, shape: tuple[int, int] | None = None):
    case = cases.make_case(op, dtype, shape)
    with PtxExecutor(90).running(set_executor) as executor:
        case.run()
    return executor.reports


def _moved(report: Report) -> tuple[int, int]:
    rows = [row for row in report.traffic if row.space == "global"]
    return (
        32 * sum(row.sectors for row in rows if not row.write),
        32 * sum(row.sectors for row in rows if row.write),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("samples", [16, 64])
def test_statistics_read_the_gradients_once(dtype: torch.dtype, samples: int) -> None:
    """Within 5 % of the least traffic: G, mean and variance; the rest is shares of row sums."""
    features = 2048
    reports = _reports("batch_moments", dtype, (samples, features))
    (name, sweep), (_, finish) = reports
    assert name == "whole_kernel"
    size = samples * features * dtype.itemsize
    read, written = _moved(sweep)
    assert read == size
    assert 8 * features <= written
    assert read + written <= 1.05 * (size + 8 * features)
    assert _moved(finish)[0] <= 0.05 * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [12, 96])
def test_chunks_are_read_once(dtype: torch.dtype, rows: int) -> None:
    """Sum and squares are written by the first, then read and written."""
    features = 4096
    first, _, second, _ = _reports("accumulate_moments_", dtype, (rows, features))
    of_row, of_sums = features * dtype.itemsize, 2 * 4 * features
    for (name, report), count, read_too in ((first, rows // 3, 0), (second, rows * 2 // 3, 1)):
        assert name == "accumulate_moments_kernel"
        read, written = _moved(report)
        assert read == count * of_row + read_too * of_sums
        assert of_sums <= written <= of_sums + 0.01 * count * of_row


def test_tall_batches_read_the_gradients_twice() -> None:
    size = 1024 * 512 * 4
    moved = dict((name, _moved(report)) for name, report in
                 _reports("batch_moments", torch.float32, (1024, 512)))  # fmt: skip
    for sweep in ("pool_kernel", "products_kernel"):
        assert size <= moved[sweep][0] <= 1.05 * size
    assert sum(moved["merge_kernel"]) <= 0.05 * size
    assert sum(moved["add_up_kernel"]) <= 0.05 * size


def test_a_step_moves_twenty_bytes_an_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "LISTS", [(8192,), (4096,)])
    (name, step), _ = _reports("adagrad_step_", torch.float32)
    assert name == "adagrad_step_kernel"
    read, written = _moved(step)
    assert read == 12 * 12288
    assert 8 * 12288 <= written <= 1.05 * 8 * 12288
