"""Every op is tested on every backend with kernels for it: no filter may leave one out unseen."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import torch
from support.calls import op_under_test, runs

from adadagrad_kernels import ops
from adadagrad_kernels.backends import BACKENDS

FOLDER = Path(__file__).parent
OPS = [name for name in ops.__all__ if hasattr(torch.ops.adadagrad_kernels, name)]
GPU = ("cuda", "triton")


def test_a_file_names_its_op() -> None:
    for op in OPS:
        assert (FOLDER / f"test_{op.rstrip('_')}.py").is_file()
        assert op_under_test(f"test_{op.rstrip('_')}", "None") == op


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
