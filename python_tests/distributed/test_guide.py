"""The programs of docs/guide/distributed.md run as the page says, on two ranks and on one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import Programs

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "distributed.md"
if not GUIDE.exists():
    pytest.skip("no guide here: the tests run away from the sources", allow_module_level=True)


_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def _run(program: Path, ranks: int, programs: Programs | None = None) -> list[str]:
    """What the ranks print; the launcher picks a free port.

    They are forks of the launcher, and it one of ``programs``, where that is given.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    if programs:
        launch += ["--start-method=fork", "--run-path", str(program)]
        done = programs.run(*launch, env=_ENVIRONMENT, cwd=program.parent)
    else:
        done = subprocess.run(
            [sys.executable, *launch, str(program)],
            cwd=program.parent,
            env={**os.environ, **_ENVIRONMENT},
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
    assert done.returncode == 0, done.stderr
    # Unbuffered, two ranks may write before either ends its line.
    return sorted(re.findall(r"rank \d: .*?(?=rank|$)", done.stdout, re.MULTILINE))


# One of gloo's threads that outlives its group aborts the process now and then, on a busy machine.
_NO_THREAD_OF_GLOO = """
from pathlib import Path
tasks = Path("/proc/self/task").glob("*/comm")
assert not (left := [name for task in tasks if "gloo" in (name := task.read_text())]), left
"""


def _programs() -> list[str]:
    """That of ranks with shares of a batch, and that of stages."""
    found = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    return [program + _NO_THREAD_OF_GLOO for program in found]


@pytest.mark.parametrize("place", [0, 1], ids=["shares", "stages"])
def test_ranks_decide_on_the_sizes_of_one_process(
    programs: Programs, place: int, tmp_path: Path
) -> None:
    program = tmp_path / "train.py"
    program.write_text(_programs()[place])
    first, second = _run(program, 2)
    assert second == first.replace("rank 0", "rank 1")
    assert _run(program, 1, programs) == [first]
    steps, last = map(int, re.findall(r"\d+", first)[1:])
    assert 16 < last <= 512
    assert steps < 3 * 2048 / 16


def test_rounds_of_local_steps_grow_their_batch_alike(programs: Programs, tmp_path: Path) -> None:
    text = GUIDE.read_text()
    code, _ = _programs()
    parts = re.findall(r"^```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (rounds,) = (part for part in parts if "LocalGradients" in part)
    wrapped = "DistributedDataParallel(torch.nn.Sequential(*layers))"
    before, last_lines = code.partition("controller =")[0], code.partition("print(")[2]
    last_lines = last_lines.replace("recorder, summed", "source, statistics, averager")
    assert wrapped in before
    program = tmp_path / "rounds.py"
    bare = before.replace(wrapped, "torch.nn.Sequential(*layers)")
    program.write_text(f"{bare}{rounds}print({last_lines}")
    first, second = _run(program, 2, programs)
    assert second == first.replace("rank 0", "rank 1")
    steps, last = map(int, re.findall(r"\d+", first)[1:])
    assert 16 < last <= 512
    assert steps < 2048 / 16
