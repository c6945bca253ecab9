"""The objects of a build: no instruction leaks out of its own file, nothing for the linker to mix.

Had an AVX-512 object a weak symbol, the linker could take it for all, and a machine without AVX-512
would stop at an illegal instruction.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.instruction_sets import ISAS

BUILD = Path(__file__).parent.parent / "build"
WIDE = re.compile(r"%?\b([xyz]mm)\d+")


def _object(isa: str) -> Path:
    """The kernels' object file for one instruction set; skips where nothing was built here."""
    for tool in ("objdump", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (binutils)")
    found = sorted(BUILD.glob(f"temp.*/**/csrc/cpu/isa/{isa}.cpp.o"))
    if not found:
        pytest.skip(f"no object of {isa} under {BUILD}: build with `pip install .` in the source")
    return max(found, key=lambda path: path.stat().st_mtime)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("isa", "expected"),
    [("scalar", set()), ("avx2", {"ymm"}), ("avx512", {"ymm", "zmm"})],
)
def test_wide_registers_stay_in_their_object(isa: str, expected: set[str]) -> None:
    disassembly = _run("objdump", "-d", "--no-show-raw-insn", str(_object(isa)))
    if "x86-64" not in disassembly:
        pytest.skip("registers are known for x86-64")
    used = set(WIDE.findall(disassembly)) - {"xmm"}
    assert used <= expected
    assert expected == set() or max(expected) in used, "the wide registers are not used at all"


@pytest.mark.parametrize("isa", ISAS)
def test_kernel_objects_have_no_weak_symbols(isa: str) -> None:
    """Weak and unique symbols (W, V, u) are what the linker picks one of."""
    lines = _run("nm", "--defined-only", "-C", str(_object(isa))).splitlines()
    weak = [line for line in lines if re.search(r"^\S+ [WwVvu] ", line)]
    assert not weak, "\n".join(weak[:10])


def test_the_module_links_neither_torch_nor_openmp() -> None:
    """One build serves every torch, and uses the OpenMP runtime that is already there."""
    from adadagrad_kernels import _native

    if _native.C is None:
        pytest.skip(str(_native.missing))
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed (binutils)")
    needed = re.findall(r"NEEDED.*\[(.*)\]", _run("readelf", "-d", _native.C.__file__))
    assert needed
    assert not [name for name in needed if re.match(r"lib(torch|c10|gomp|iomp|omp)", name)]
