"""What the rungs say of a kernel of Triton with a fault in it, or with none.

TRITON_INTERPRET=1 python -P matrix_triton.py     answers lines [KERNEL, FAULT]
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]
if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent)]
    sys.path.append(str(ROOT))
sys.path.append(str(ROOT / "gpu_ladder/tests/triton_checks"))

from matrix_faults import Fault, Kernel, kernel_of  # noqa: E402

# Not where it is used: when a test begins pytest puts the sources before what is installed.
from adadagrad_kernels.backends.triton import kernels  # noqa: E402

SOURCES = ROOT / "adadagrad_kernels/backends/triton/kernels"
#: The kernel as it is.
RIGHT = "nothing"
ARCHITECTURE = 90


class PlantedTriton:
    """A kernel's cases over the sources with one fault, or with none, in ``folder``.

    PTX is run in this process, the interpreter in another one: Triton is imported for one of them.
    """

    def __init__(self, kernel: Kernel, fault: Fault | None, folder: Path) -> None:
        self._kernel = kernel
        self._fault = fault
        self._sources = folder / "kernels"
        shutil.copytree(SOURCES, self._sources, ignore=shutil.ignore_patterns("__pycache__"))
        if fault is not None:
            fault.plant(self._sources)

    def said(self, rung: str) -> set[str]:
        """What a rung finds."""
        if rung == "interpreter" and os.environ.get("TRITON_INTERPRET") != "1":
            return _asked(self._kernel.name, self._fault.name if self._fault else RIGHT)
        with _planted(self._sources):
            if rung == "machine code":
                return _machine_code(self._kernel.name)
            return _interpreted(self._kernel) if rung == "interpreter" else _ptx(self._kernel)


def _asked(kernel: str, fault: str) -> set[str]:
    """What the interpreter finds, in its process."""
    worker = _worker()
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps([kernel, fault]) + "\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    assert answer, f"the process of Triton's interpreter ended at {fault!r} in {kernel}"
    return set(json.loads(answer))


@functools.cache
def _worker() -> subprocess.Popen[str]:
    """One for all faults; it ends with this process."""
    return subprocess.Popen(
        [sys.executable, "-P", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def _planted(sources: Path) -> Iterator[None]:
    """The package's kernels are those of a folder."""

    def take_away() -> tuple[dict[str, ModuleType], dict[str, ModuleType]]:
        inside = [name for name in sys.modules if name.startswith(f"{kernels.__name__}.")]
        of_package = [
            name for name, value in vars(kernels).items() if isinstance(value, ModuleType)
        ]
        return (
            {name: sys.modules.pop(name) for name in inside},
            {name: vars(kernels).pop(name) for name in of_package},
        )

    before, path = take_away(), list(kernels.__path__)
    kernels.__path__[:] = [str(sources)]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        take_away()
        kernels.__path__[:] = path
        sys.modules.update(before[0])
        vars(kernels).update(before[1])


def _cases(kernel: Kernel) -> Iterator[object]:
    import torch
    import triton_ptx_cases

    for op, *shape in kernel.runs:
        # TOML has no none: a normalisation without groups has 0 of them.
        given = [None if op == "norm_layer_moments" and n == 0 else n for n in (shape or [[]])[0]]
        yield triton_ptx_cases.make_case(op, torch.float32, tuple(given) or None)


def _interpreted(kernel: Kernel) -> set[str]:
    from gpu_ladder.triton_checks.interpreter import checked

    # The search for a slot is a loop that the interpreter is slow at; and lists are two launches.
    importlib.import_module("adadagrad_kernels.backends.triton.kernels._lists").SLOTS = 4
    found: set[str] = set()
    for order in ("forward", "reverse"):
        for case in _cases(kernel):
            with checked(order=order) as findings:
                found |= _wrong_numbers(case)
            found |= {finding.kind for finding in findings}
    return found


def _ptx(kernel: Kernel) -> set[str]:
    from adadagrad_kernels.backends.triton._launch import set_executor
    from gpu_ladder.triton_checks.ptx_executor import PtxExecutor

    found: set[str] = set()
    for order in ("forward", "reverse"):
        for case in _cases(kernel):
            with PtxExecutor(ARCHITECTURE, order).running(set_executor) as executor:
                try:
                    found |= _wrong_numbers(case)
                except RuntimeError:
                    outcomes = {report.outcome for _, report in executor.reports} - {"finished"}
                    if not outcomes:
                        raise
                    found |= outcomes
            found |= {finding.kind for _, finding in executor.findings}
    return found


def _wrong_numbers(case) -> set[str]:
    try:
        case.run()
        case.judge()
    except AssertionError:
        return {"numbers"}
    return set()


def _machine_code(kernel: str) -> set[str]:
    from matrix_cuda import over_budget

    from gpu_ladder.static.toolchain import require
    from gpu_ladder.static.triton_budgets import TRITON
    from gpu_ladder.static.triton_gate import examine
    from gpu_ladder.triton_checks import listing

    listed = listing.first(kernel, "float32")
    return over_budget([examine(require(), listed, ARCHITECTURE)], TRITON)


def main() -> None:
    """Answer lines of a kernel and a fault with what the interpreter finds."""
    for line in sys.stdin:
        name, fault = json.loads(line)
        kernel = kernel_of("triton", name)
        with tempfile.TemporaryDirectory() as folder:
            planted = PlantedTriton(
                kernel, None if fault == RIGHT else kernel.fault(fault), Path(folder)
            )
            print(json.dumps(sorted(planted.said("interpreter"))), flush=True)


if __name__ == "__main__":
    main()
