"""Runs a subject in a process of its own and prints what was wrong, as JSON.

python run_subject.py NAME LIBRARY [PTX]     with PTX, on the PTX machine
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from matrix_subjects import SUBJECTS, Case  # noqa: E402

from gpu_ladder.emulated import SCHEDULES, Emulated  # noqa: E402
from gpu_ladder.ptx import Buffer, Module  # noqa: E402


def main(name: str, library: str, ptx: str | None = None) -> None:
    """Every case in every order."""
    emulated = Emulated(Path(library))
    modules = [] if ptx is None else [Module(Path(ptx).read_text(encoding="utf-8"))]
    wrong: set[str] = set()
    for order in SCHEDULES:
        for case in SUBJECTS[name]():
            wrong |= _run(emulated, modules, order, case)
    print(json.dumps(sorted(wrong)))


def _run(emulated: Emulated, modules: list[Module], order: str, case: Case) -> set[str]:
    emulated.reset()
    emulated.clear_findings()
    emulated.set_schedule(order, 1)
    arrays = [array for array, _ in case.arrays]
    for place, (array, ready) in enumerate(case.arrays):
        emulated.add_buffer(f"array {place}", array, initialised=ready)
    reports: list[Any] = []
    if modules:
        emulated.set_launch_hook(_hook(modules, order, case, reports))
    error = emulated.library.subject_run(
        (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)),
        (ctypes.c_longlong * len(case.sizes))(*case.sizes),
    )
    found = {finding.kind for finding in emulated.findings()}
    for report in reports:
        found |= report.kinds | ({"stuck"} if report.outcome != "finished" else set())
    if error and not found:
        found.add(f"error {error}")
    for place, right in case.expected.items():
        if error == 0 and not np.allclose(arrays[place], right, 1e-4, 1e-4):
            found.add("numbers")
    return found


def _hook(modules: list[Module], order: str, case: Case, reports: list[Any]) -> Any:
    known = [
        Buffer(f"array {place}", array.ctypes.data, array.nbytes, ready)
        for place, (array, ready) in enumerate(case.arrays)
    ]

    def run(name: bytes, grid: Any, block: Any, args: Any, shared_bytes: int) -> int:
        kernel = modules[0].kernels[name.decode()]
        pointer = ctypes.cast(args, ctypes.c_void_p).value or 0
        report = kernel.launch_raw(
            grid[:3], block[:3], pointer, shared_bytes, order, 1, known, checks=True, budget=10**7
        )
        reports.append(report)
        known[:] = [Buffer(b.name, b.address, b.bytes) for b in known]
        return 0

    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
