"""Several processes of torch.distributed on this machine: bounded in time, one thread each.

The cases of some modules are run once by every rank of a world, one after another, so that a test
costs no start of processes. What a case returns or raises comes back by rank and name. Processes
meet in a file, so that no port is taken.
"""

from __future__ import annotations

import datetime
import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from filelock import FileLock

if TYPE_CHECKING:
    import pytest

#: Seconds after which a rank that waits for the others gives up.
PATIENCE = 30.0


@dataclass(frozen=True)
class Told:
    """What a case gave on one rank: a value, or an error's type, message and traceback."""

    value: Any = None
    error: str | None = None
    message: str = ""
    trace: str = ""


def run(modules: Sequence[str], world: int, *, seconds: float = 300.0) -> dict[str, list[Told]]:
    """What each of the ``CASES`` of some modules gave, by its name, on every rank.

    Args:
        modules: their names, importable as this process imports them.
        world: number of processes.
        seconds: after which they are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = f"from support.ranks import main; main({tuple(modules)!r}, {world}, {folder!r})"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**environment, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=Path(__file__).parent,
            )
            for rank in range(world)
        ]
        end = time.monotonic() + seconds
        said = []
        try:
            for process in ranks:
                said.append(process.communicate(timeout=max(end - time.monotonic(), 0.1))[0])
        finally:
            for process in ranks:
                process.kill()
        for rank, (process, text) in enumerate(zip(ranks, said, strict=True)):
            assert process.returncode == 0, f"rank {rank} ended with {process.returncode}: {text}"
        told = [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(world)]
    return {name: [of_rank[name] for of_rank in told] for name in told[0]}


def run_once(
    modules: Sequence[str], world: int, factory: pytest.TempPathFactory, *, seconds: float = 300.0
) -> dict[str, list[Told]]:
    """As ``run``, once for all workers of pytest-xdist: the others wait, and read what came out."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    kept = folder / "-".join([*modules, str(world)])
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(run(modules, world, seconds=seconds)))
    told: dict[str, list[Told]] = pickle.loads(kept.read_bytes())
    return told


def main(modules: Sequence[str], world: int, folder: str) -> None:
    """One rank: run the cases and leave what they gave."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    cases = [case for name in modules for case in importlib.import_module(name).CASES]
    assert len({case.__name__ for case in cases}) == len(cases), "two cases have one name"
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(f"{folder}/meeting", world),
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=PATIENCE),
    )
    told: dict[str, Told] = {}
    for case in cases:
        try:
            told[case.__name__] = Told(case())
        except Exception as error:
            trace = traceback.format_exc()
            told[case.__name__] = Told(None, type(error).__name__, str(error), trace)
        dist.barrier()
    Path(folder, str(rank)).write_bytes(pickle.dumps(told))
    dist.destroy_process_group()


def values(told: list[Told]) -> list[Any]:
    """What all ranks gave; an error of one is ours."""
    for rank, of_rank in enumerate(told):
        assert of_rank.error is None, f"rank {rank}: {of_rank.trace}"
    return [of_rank.value for of_rank in told]
