"""Processes on a thread of their own, alone or a gloo group, that do what they are told."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from adadagrad_kernels import use_backend
from benchmarks.planned import tasks

_ROOT = Path(__file__).resolve().parents[2]
#: As ``benchmarks/__main__.py`` finds the folder, and the installed package beside it.
_CODE = """\
import sys
sys.path.insert(0, {root!r})
import benchmarks
sys.path.remove({root!r})
from benchmarks.planned.processes import serve
serve({rank}, {world}, {store!r}, group={group})
"""


class Processes:
    """So many of them; they end with this object.

    Args:
        world: how many.
        group: whether they are ranks of one.
    """

    def __init__(self, world: int, *, group: bool = False) -> None:
        folder = tempfile.TemporaryDirectory()
        store = str(Path(folder.name, "store"))
        self._ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # the sources in the folder that this was started in have no kernels
                    "-c",
                    _CODE.format(root=str(_ROOT), rank=rank, world=world, store=store, group=group),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        weakref.finalize(self, _end, self._ranks, folder)

    def do(self, task: str, **settings: Any) -> list[Any]:
        """What a function of ``benchmarks.planned.tasks`` gives on every rank.

        Raises:
            RuntimeError: where one has ended.
        """
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write(json.dumps([task, settings]) + "\n")
            rank.stdin.flush()
        return [self._heard(rank) for rank in self._ranks]

    def _heard(self, rank: subprocess.Popen[str]) -> Any:
        assert rank.stdout is not None
        line = rank.stdout.readline()
        if not line:
            raise RuntimeError("a process has ended; what it printed says why")
        return json.loads(line)


def _end(ranks: list[subprocess.Popen[str]], folder: tempfile.TemporaryDirectory[str]) -> None:
    for rank in ranks:
        rank.kill()
        rank.communicate()
    folder.cleanup()


def serve(rank: int, world: int, store: str, *, group: bool) -> None:
    """One of them: does what it reads, until its input ends."""
    use_backend("cpu")  # measures the kernels, or ends where they are missing
    torch.set_num_threads(1)
    if group:
        dist.init_process_group(
            "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world
        )
    for line in sys.stdin:
        task, settings = json.loads(line)
        print(json.dumps(getattr(tasks, task)(**settings)), flush=True)
