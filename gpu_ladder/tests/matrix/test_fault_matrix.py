"""Each fault is caught by the rungs that are there for it, as gpu_ladder/README.md says."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from matrix_faults import FAULTS, Fault

from gpu_ladder import emulated
from gpu_ladder.static import cuda_gate, toolchain

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
RUNGS = ("source", "source, checked", "sanitizers", "PTX", "machine code")
RIGHT = "nothing"
#: Of these every rung catches one, in different ways; the others are planted by night.
BY_DAY = (
    RIGHT,
    "no barrier before partial sums are merged",
    "the end of a row is stored as a whole vector",
    "a shuffle that half of the lanes skip",
    "partial sums added by atomics",
)

FLAGS = {
    "plain": ["-O1"],
    "checked": [
        *("-O1", "-fno-tree-sra", "-fsanitize=thread"),
        "--param=tsan-instrument-func-entry-exit=0",
    ],
    "sanitized": [
        *("-O1", "-fsanitize=address,undefined"),
        *("-fno-sanitize=vptr", "-fno-sanitize-recover=all"),
    ],
}
COMMON = ["-std=c++20", "-g", "-fPIC", "-ffp-contract=off", "-fno-gnu-unique", "-w"]


def _library(sources: Path, flavour: str) -> Path:
    """The subject on the host model, with the kernels of ``sources``."""
    folder = emulated.build(flavour, f"gpu_ladder_runtime_{flavour}").parent
    runtime = folder / "CMakeFiles" / f"gpu_ladder_runtime_{flavour}.dir"
    compiler = os.environ.get("CXX", "g++")
    kernel, library = sources / f"{flavour}.o", sources / f"{flavour}.so"
    includes = [sources, ROOT / "gpu_ladder/runtime", ROOT / "gpu_ladder/runtime/include"]
    subject = ["-x", "c++", "-c", str(HERE / "subject.cu"), "-o", str(kernel)]
    subprocess.run(
        [compiler, *COMMON, *FLAGS[flavour], *(f"-I{path}" for path in includes), *subject],
        check=True,
    )
    sanitizers = FLAGS["sanitized"] if flavour == "sanitized" else []
    # The runtime first: of inline functions in both, the copy that is not instrumented.
    objects = [*map(str, sorted(runtime.rglob("*.o"))), str(kernel)]
    link = ["-shared", "-Wl,-Bsymbolic", *sanitizers, *objects, "-ldl", "-o", str(library)]
    subprocess.run([compiler, *link], check=True)
    return library


def _python(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "run_subject.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def _found(*arguments: object) -> set[str]:
    done = _python(*arguments)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def _sanitizers(library: Path) -> set[str]:
    done = _python(library, env=emulated.sanitizer_environment())
    pattern = r"AddressSanitizer: ([\w-]+)|runtime error: .*(misaligned)"
    report = re.search(pattern, done.stderr)
    if report is None:
        assert done.returncode == 0, done.stderr
        return set(json.loads(done.stdout))
    return {report[1] or report[2]}


def _machine_code(sources: Path) -> set[str]:
    kernels = cuda_gate.gate([HERE / "subject.cu"], [sources], [90])
    kernel = next(kernel for kernel in kernels if kernel.name.startswith("moments_kernel"))
    found = set()
    if kernel.resources.stack_bytes:
        found.add("spills")
    if kernel.ptx.float_atomics:
        found.add("float atomics")
    # Four rows together, four one by one where some are missing, and two tensors to update.
    if kernel.instructions.global_loads.get(16, 0) < 10:
        found.add("narrow loads")
    return found


def _outcomes(fault: Fault | None, folder: Path) -> dict[str, set[str]]:
    sources = folder / "csrc"
    shutil.copytree(ROOT / "csrc", sources)
    if fault is not None:
        fault.plant(sources)
    libraries = {flavour: _library(sources, flavour) for flavour in FLAGS}
    ptx = cuda_gate.compile_source(HERE / "subject.cu", 90, [sources]).ptx
    return {
        "source": _found(libraries["plain"]),
        "source, checked": _found(libraries["checked"]),
        "sanitizers": _sanitizers(libraries["sanitized"]),
        "PTX": _found(libraries["plain"], ptx),
        "machine code": _machine_code(sources),
    }


@functools.cache
def _documented() -> dict[str, dict[str, set[str]]]:
    """The table in the ladder's README: what each rung says of each fault."""
    rows = {}
    for line in (ROOT / "gpu_ladder/README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == len(RUNGS) + 1:
            said = [set(cell.split(", ")) - {"", "–"} for cell in cells[1:]]
            rows[cells[0]] = dict(zip(RUNGS, said, strict=True))
    return rows


PLANTED: dict[str, Fault | None] = {RIGHT: None, **{fault.name: fault for fault in FAULTS}}


@pytest.mark.parametrize(
    "name",
    [n if n in BY_DAY else pytest.param(n, marks=pytest.mark.nightly) for n in PLANTED],
)
def test_as_documented(name: str, tmp_path: Path) -> None:
    if (reason := toolchain.missing()) is not None:
        pytest.skip(f"no compiler for GPUs: {reason}")
    assert _outcomes(PLANTED[name], tmp_path) == _documented()[name]


def test_every_rung_catches_a_fault_by_day() -> None:
    documented = _documented()
    for rung in RUNGS:
        assert any(documented[name][rung] for name in BY_DAY), f"{rung} catches nothing"


def test_every_fault_is_caught_and_nothing_else() -> None:
    documented = _documented()
    assert set(documented) >= {RIGHT, *(fault.name for fault in FAULTS)}
    assert not any(documented[RIGHT].values())
    for fault in FAULTS:
        assert any(documented[fault.name].values()), f"no rung catches {fault.name}"
    for rung in RUNGS:
        assert any(documented[fault.name][rung] for fault in FAULTS), f"{rung} catches nothing"
