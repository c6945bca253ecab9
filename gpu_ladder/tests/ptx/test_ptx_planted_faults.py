"""Kernels with one fault each, as nvcc translates them: found in every schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx_support import ARCHITECTURES, ORDERS, aligned, compiled, has

from gpu_ladder.ptx import Report

pytestmark = pytest.mark.skipif(not has("nvcc"), reason="nvcc is missing: see requirements")
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def launch(
    source: str,
    name: str,
    architecture: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: list[Any],
    order: str = "forward",
    **options: Any,
) -> Report:
    kernel = compiled(source, architecture).kernels[name]
    return kernel.launch(grid, block, arguments, order=order, seed=11, **options)


def clean(report: Report) -> Report:
    report.raise_on_findings()
    return report


FAULTS = {
    "missing_barrier": (128, {"race", "uninitialised"}),
    "tail_off_by_one": (129, {"out_of_bounds"}),
    "misaligned_vector": (16, {"misaligned"}),
    "uninitialised_shared": (128, {"uninitialised"}),
    "divergent_barrier": (64, {"divergent_barrier"}),
    "barrier_skipped_by_warp": (64, {"divergent_barrier"}),
    "divergent_shuffle": (32, {"divergent_collective"}),
    "shuffle_outside_mask": (32, {"divergent_collective"}),
    "copy_without_wait": (32, {"uninitialised"}),
    "copy_with_wait": (32, set()),
}


@architectures
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found(architecture: str, order: str, name: str) -> None:
    threads, kinds = FAULTS[name]
    values, out = aligned(np.ones(128), np.float32), aligned(np.zeros(128), np.float32)
    arguments: list[Any] = [values, out]
    if name == "tail_off_by_one":
        arguments.append(128)
    report = launch("faults.cu", name, architecture, (1,), (threads,), arguments, order)
    assert report.kinds == kinds
    for finding in report.findings:
        assert finding.file.endswith("faults.cu")
        assert finding.source_line > 0
        assert f"PTX line {finding.line}" in finding.message or finding.kind.startswith("diverg")


@architectures
def test_a_wrong_shuffle_offset_gives_wrong_numbers(architecture: str) -> None:
    values, out = aligned(np.ones(32), np.float32), aligned(np.zeros(1), np.float32)
    clean(launch("faults.cu", "wrong_shuffle_offset", architecture, (1,), (32,), [values, out]))
    assert out[0] == 16


@architectures
def test_blocks_that_race(architecture: str) -> None:
    out = aligned(np.zeros(1), np.float32)
    assert launch("faults.cu", "blocks_race", architecture, (4,), (1,), [out]).kinds == {"race"}


@architectures
def test_a_kernel_that_never_ends_is_stopped(architecture: str) -> None:
    flag = aligned(np.zeros(1), np.int32)
    report = launch("faults.cu", "runaway", architecture, (2,), (32,), [flag], budget=100_000)
    assert report.outcome == "budget_spent"
    assert report.kinds == {"deadlock"}
