"""Runs the subject in a process of its own and prints what was wrong, as JSON.

python run_subject.py LIBRARY [PTX]     with PTX, on the PTX machine
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from gpu_ladder.emulated import SCHEDULES, Emulated  # noqa: E402
from gpu_ladder.ptx import Buffer, Module  # noqa: E402

#: Samples, features, distance of rows, threads that share a row.
SHAPES = [(70, 1001, 1004, 32), (37, 201, 204, 8)]


def main(library: str, ptx: str | None = None) -> None:
    """Every shape in every order."""
    emulated = Emulated(Path(library))
    modules = [] if ptx is None else [Module(Path(ptx).read_text(encoding="utf-8"))]
    wrong: set[str] = set()
    for order in SCHEDULES:
        for shape in SHAPES:
            wrong |= _run(emulated, modules, order, shape)
    print(json.dumps(sorted(wrong)))


def _run(
    emulated: Emulated, modules: list[Module], order: str, shape: tuple[int, int, int, int]
) -> set[str]:
    samples, features, stride, lanes = shape
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((samples, stride)).astype(np.float32).ravel()
    grads = grads[: (samples - 1) * stride + features].copy()
    outputs = [
        *(_unwritten(features, np.float32) for _ in range(2)),
        *(_unwritten(count, np.float64) for count in (4 * samples, samples, samples)),
    ]
    emulated.reset()
    emulated.clear_findings()
    emulated.set_schedule(order, 1)
    buffers = [("grads", grads, True)] + [
        (name, array, False)
        for name, array in zip(
            ("mean", "variance", "partials", "norms", "products"), outputs, strict=True
        )
    ]
    for name, array, initialised in buffers:
        emulated.add_buffer(name, array, initialised=initialised)
    reports: list[Any] = []
    if modules:
        emulated.set_launch_hook(_hook(modules, order, buffers, reports))
    error = emulated.library.subject(
        *(_pointer(grads), *(ctypes.c_longlong(n) for n in (samples, features, stride))),
        ctypes.c_int(lanes),
        *map(_pointer, outputs),
    )
    found = {finding.kind for finding in emulated.findings()}
    for report in reports:
        found |= report.kinds | ({"stuck"} if report.outcome != "finished" else set())
    rows = np.lib.stride_tricks.as_strided(grads, (samples, features), (4 * stride, 4))
    exact = rows.astype(np.float64)
    mean = exact.mean(0)
    expected = [mean, exact.var(0, ddof=1), None, (exact**2).sum(1), exact @ mean]
    for given, right in zip(outputs, expected, strict=True):
        if error == 0 and right is not None and not np.allclose(given, right, 1e-4, 1e-4):
            found.add("numbers")
    return found


def _unwritten(count: int, kind: type) -> np.ndarray[Any, Any]:
    """NaNs. AddressSanitizer watches the end of the allocation; else there is room behind it."""
    room = 0 if "libasan" in os.environ.get("LD_PRELOAD", "") else 64
    return np.full(count + room, np.nan, kind)[:count]


def _pointer(array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _hook(modules: list[Module], order: str, buffers: Any, reports: list[Any]) -> Any:
    known = [Buffer(name, array.ctypes.data, array.nbytes, ready) for name, array, ready in buffers]

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
