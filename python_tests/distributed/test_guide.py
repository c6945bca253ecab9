"""The program of docs/guide/distributed.md runs as the page says, on two ranks and on one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "distributed.md"
if not GUIDE.exists():
    pytest.skip("no guide here: the tests run away from the sources", allow_module_level=True)


def _run(program: Path, ranks: int) -> list[str]:
    """What the ranks print; the launcher picks a free port."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [sys.executable, *launch, str(program)],
        cwd=program.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))


def test_ranks_decide_on_the_sizes_of_one_process(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    program = tmp_path / "train.py"
    program.write_text(code)
    first, second = _run(program, 2)
    assert second == first.replace("rank 0", "rank 1")
    assert _run(program, 1) == [first]
    steps, last = map(int, re.findall(r"\d+", first)[1:])
    assert 16 < last <= 512
    assert steps < 3 * 2048 / 16


def test_rounds_of_local_steps_grow_their_batch_alike(tmp_path: Path) -> None:
    text = GUIDE.read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (rounds,) = re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    wrapped = "DistributedDataParallel(torch.nn.Sequential(*layers))"
    before, last_lines = code.partition("controller =")[0], code.partition("print(")[2]
    last_lines = re.sub(r"^del .*\n", "", last_lines, flags=re.MULTILINE)  # no wrapper here
    assert wrapped in before
    program = tmp_path / "rounds.py"
    bare = before.replace(wrapped, "torch.nn.Sequential(*layers)")
    program.write_text(f"{bare}{rounds}print({last_lines}")
    first, second = _run(program, 2)
    assert second == first.replace("rank 0", "rank 1")
    steps, last = map(int, re.findall(r"\d+", first)[1:])
    assert 16 < last <= 512
    assert steps < 2048 / 16
