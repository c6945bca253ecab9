"""Each fault is found by the rungs that are there for it, as docs/internals/gpu_faults.md says."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

import matrix_page
import pytest
from matrix_cuda import ROOT
from matrix_faults import KERNELS, RUNGS
from matrix_page import RIGHT, Key, Said
from matrix_rungs import outcomes

from gpu_ladder.static import toolchain

documented = functools.cache(matrix_page.read)
#: By day each kernel has its first fault, on the rung that must find it (of Triton, PTX, which runs
#: in this process). The machine code of one kernel has another.
FIRST = [
    (kernel.kind, kernel.name, kernel.faults[0].name, (str(kernel.faults[0].rung),))
    if kernel.kind == "cuda"
    else (kernel.kind, kernel.name, kernel.faults[0].name, ("PTX",))
    for kernel in KERNELS
]
BY_DAY: list[tuple[str, str, str, tuple[str, ...]]] = [
    *FIRST,
    ("cuda", "moments_kernel", "partial sums added by atomics", ("machine code",)),
]


def _as_documented(key: Key, folder: Path, *rungs: str) -> None:
    if (reason := toolchain.missing()) is not None:
        pytest.skip(f"no compiler for GPUs: {reason}")
    if key[0] == "triton" and importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; pip install triton")
    wanted = documented()[key]
    found: Said = outcomes(key, folder, *rungs)
    chance = _by_chance(wanted)
    for rung, said in found.items():
        assert said - chance == wanted[rung] - chance, f"{rung}: {said}"


def _by_chance(row: Said) -> set[str]:
    """The words that depend on what lies behind an end, and on what stood in unwritten memory."""
    kinds = set().union(*row.values())
    words = {"numbers", "crash"} if kinds & {"out_of_bounds", "uninitialised"} else set()
    return words | ({"race", "uninitialised", "misaligned"} if "out_of_bounds" in kinds else set())


@pytest.mark.parametrize(("kind", "kernel", "fault", "rungs"), BY_DAY)
def test_by_day(kind: str, kernel: str, fault: str, rungs: tuple[str, ...], tmp_path: Path) -> None:
    _as_documented((kind, kernel, fault), tmp_path, *rungs)


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "kernel", "fault"), documented())
def test_every_rung(kind: str, kernel: str, fault: str, tmp_path: Path) -> None:
    _as_documented((kind, kernel, fault), tmp_path)


def test_every_fault_was_run() -> None:
    assert list(documented()) == matrix_page.all_keys(), "matrix_rungs.py --missing runs the others"


def test_the_page_is_what_is_written() -> None:
    assert matrix_page.rendered(documented()) == matrix_page.PAGE.read_text(encoding="utf-8")


def test_every_fault_is_found_by_its_rung_and_nothing_else() -> None:
    for kernel in KERNELS:
        names = (RIGHT, *(fault.name for fault in kernel.faults))
        keys = [(kernel.kind, kernel.name, name) for name in names]
        rows = {key[2]: documented()[key] for key in keys}
        assert not any(rows[RIGHT].values()), f"what is wrong with {kernel.name}?"
        for fault in kernel.faults:
            assert (fault.rung is None) == bool(fault.why)
            if fault.rung is None:
                assert not any(rows[fault.name].values()), f"{fault.name} is found"
            else:
                assert rows[fault.name][fault.rung], f"{fault.rung} must find {fault.name}"


def test_every_rung_finds_a_fault() -> None:
    for kind, rungs in RUNGS.items():
        for rung in rungs:
            assert any(said[rung] for key, said in documented().items() if key[0] == kind)


def test_every_kernel_has_faults() -> None:
    """Of all that are launched, by their definitions in the sources."""
    cuda = "".join(path.read_text() for path in (ROOT / "csrc/cuda").glob("*.cu*"))
    launched = set(re.findall(r"__global__[^;{]*?(\w+_kernel)\(", cuda))
    folder = ROOT / "adadagrad_kernels/backends/triton/kernels"
    triton = "".join(path.read_text() for path in folder.glob("*.py"))
    compiled = set(re.findall(r"^def (\w+_kernel)\(", triton, re.MULTILINE))
    assert {"moments_kernel", "row_step_kernel"} <= launched
    assert {"whole_kernel", "zeros_step_kernel"} <= compiled
    names = {kind: {k.name for k in KERNELS if k.kind == kind} for kind in RUNGS}
    assert names["cuda"] == {*launched, "moments_kernel with a step"}
    assert names["triton"] == compiled
    assert all(len(kernel.faults) >= 5 for kernel in KERNELS)
