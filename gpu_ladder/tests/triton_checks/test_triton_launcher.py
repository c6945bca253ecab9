"""Triton's own launcher is executed: what it packs and launches runs as PTX, with the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed; pip install triton")

PROGRAM = Path(__file__).with_name("launcher_program.py")
OPS = {
    "adagrad_step_": ["adagrad_step_"],
    "statistics": ["batch_moments", "accumulate_moments_", "batch_adagrad_step_"],
    "steps": ["adagrad_norm_step_", "adagrad_norm_step_ rows"],
    "layers": ["norm_layer_moments", "embedding_moments", "sparse_mean_step_"],
}
BY_DAY = "adagrad_step_"

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has a driver, and a process holds one only"
)


def _launches(*arguments: str) -> list[list[object]]:
    command = [sys.executable, str(PROGRAM), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_every_kind_of_argument_arrives() -> None:
    assert _launches("arguments") == [["every_kind", 8, 1, 1]] * 2


@pytest.mark.parametrize(
    "ops",
    [
        pytest.param(ops, id=name, marks=[] if name == BY_DAY else [pytest.mark.nightly])
        for name, ops in OPS.items()
    ],
)
def test_ops(ops: list[str]) -> None:
    assert len(_launches(*ops)) >= len(ops)
