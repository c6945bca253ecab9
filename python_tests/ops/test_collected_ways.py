"""Every op is tested on every backend with kernels for it: no filter may leave one out unseen."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import torch
from support.calls import COMPOSITES, op_under_test, runs
from support.gpu_executions import (
    NIGHTLY,
    NIGHTLY_FOR_TRITON,
    ON_CPU,
    PASSES_OF_OTHERS,
    is_left_out,
)

from adadagrad_kernels import ops
from adadagrad_kernels.backends import BACKENDS

FOLDER = Path(__file__).parent
LADDER_CASES = FOLDER.parents[1] / "gpu_ladder/tests/triton_checks/test_triton_ptx.py"
OPS = [name for name in ops.__all__ if hasattr(torch.ops.adadagrad_kernels, name)]
GPU = ("cuda", "triton")


def test_a_file_names_its_op() -> None:
    for op in OPS:
        assert (FOLDER / f"test_{op.rstrip('_')}.py").is_file()
        assert op_under_test(f"test_{op.rstrip('_')}", "None") == op


BY_DAY = ("cuda-checked-random", "cuda-ptx-sm_90", "triton-ptx-sm_90")


def test_what_is_left_out_by_day_runs_at_night() -> None:
    """All but what asks for a process of its own; and of every op some of it by day.

    The ladder's own tests have Triton's kernels of the files that are left to the night whole.
    """
    assert set(BY_DAY) <= set(ON_CPU) - set(NIGHTLY)
    assert set(PASSES_OF_OTHERS) == {f"test_{op}.py" for op in COMPOSITES}
    for op in OPS:
        file = f"test_{op.rstrip('_')}.py"
        named = PASSES_OF_OTHERS.get(file, "test_matches_the_definition")
        assert f"def {named}(" in (FOLDER / file).read_text()
        for way in ON_CPU:
            alone = way in ("cuda-sanitized", "triton-interpreter")
            assert alone or not is_left_out(way, file, "test_of_any_name", nightly=True)
        by_day = [way for way in BY_DAY if not is_left_out(way, file, named, nightly=False)]
        if file in NIGHTLY_FOR_TRITON:
            assert by_day == [way for way in BY_DAY if not way.startswith("triton")]
            assert not LADDER_CASES.exists() or f'"{op}"' in LADDER_CASES.read_text()
        else:
            assert by_day == list(BY_DAY)


def test_every_op_is_collected_for_every_backend_of_a_gpu() -> None:
    files = [str(FOLDER / f"test_{op.rstrip('_')}.py") for op in OPS]
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "gpu", *files,
               "-p", "no:cacheprovider", "-p", "no:benchmark"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found: Counter[tuple[str, str]] = Counter()
    for line in done.stdout.splitlines():
        file, _, test = line.partition("::")
        for way in GPU:
            found[Path(file).stem, way] += way in test.partition("[")[2]
    for op in OPS:
        for way in GPU:
            collected = found[f"test_{op.rstrip('_')}", way]
            assert (collected > 10) == runs(BACKENDS[way], op), f"{op} on {way}: {collected}"
