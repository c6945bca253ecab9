"""Runs every rung on every fault, and writes docs/internals/gpu_faults.md.

python -P matrix_rungs.py [--missing] [cuda] [triton] [KERNEL...]     all of them, or some; an hour
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent)]
    sys.path.append(str(Path(__file__).parents[3]))

import matrix_page
from matrix_cuda import PlantedCuda
from matrix_faults import RUNGS, kernel_of
from matrix_page import RIGHT, Key, Said
from matrix_triton import PlantedTriton

_PLANTED = {"cuda": PlantedCuda, "triton": PlantedTriton}


def outcomes(key: Key, folder: Path, *rungs: str) -> Said:
    """What some rungs say, or all."""
    kind, name, fault = key
    kernel = kernel_of(kind, name)
    planted = _PLANTED[kind](kernel, None if fault == RIGHT else kernel.fault(fault), folder)
    return {rung: planted.said(rung) for rung in rungs or RUNGS[kind]}


def main(*words: str) -> None:
    """Run, and write each row as soon as it is known."""
    missing = "--missing" in words
    kernels = matrix_page.kernels_of([word for word in words if word != "--missing"])
    wanted = [(kernel.kind, kernel.name) for kernel in kernels]
    for key in matrix_page.all_keys():
        if key[:2] in wanted and not (missing and key in matrix_page.read()):
            with tempfile.TemporaryDirectory() as folder:
                said = outcomes(key, Path(folder))
            print(*key, said, sep=": ", flush=True)
            matrix_page.keep(key, said)


if __name__ == "__main__":
    main(*sys.argv[1:])
