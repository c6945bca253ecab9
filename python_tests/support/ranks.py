"""Worlds of several processes of torch.distributed: bounded in time, one thread for each.

The cases of some modules are run once by every rank of a world, one after another, so that a test
costs no start of processes. Ranks are forks of a process that has imported the modules: importing
takes longer than most cases. What a case returns or raises comes back by rank and name. Processes
meet in a file, so that no port is taken.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
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


Cases = dict[str, list[Told]]

#: Of a rank that ended before it could tell.
ENDED = Told(error="ended", message="nothing was told")


def run(
    modules: Sequence[str], worlds: Sequence[int], *, seconds: float = 600.0, apart: bool = False
) -> dict[int, Cases]:
    """What each of the ``CASES`` of some modules gave, by world, by its name, on every rank.

    Args:
        modules: their names, importable as this process imports them.
        worlds: numbers of processes; one world runs after another.
        seconds: after which all of them are ended.
        apart: whether each case has processes of its own, which may end as they like.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = f"{tuple(modules)!r}, {tuple(worlds)!r}, {folder!r}, {apart}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        process = subprocess.Popen(
            [sys.executable, "-c", f"from support.ranks import main; main({asked})"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parent,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == 0, said
        return {world: _told(folder, world) for world in worlds}


def _told(folder: str, world: int) -> Cases:
    found: Cases = {}
    for path in Path(folder).glob(f"told-*-of-{world}"):
        rank = int(path.name.split("-")[1])
        for name, told in pickle.loads(path.read_bytes()).items():
            found.setdefault(name, [ENDED] * world)[rank] = told
    return found


def run_once(
    modules: Sequence[str],
    worlds: Sequence[int],
    factory: pytest.TempPathFactory,
    *,
    seconds: float = 600.0,
    apart: bool = False,
) -> dict[int, Cases]:
    """As ``run``, once for all workers of pytest-xdist: the others wait, and read what came out."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    kept = folder / "-".join([*modules, *map(str, worlds)])
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            kept.write_bytes(pickle.dumps(run(modules, worlds, seconds=seconds, apart=apart)))
    told: dict[int, Cases] = pickle.loads(kept.read_bytes())
    return told


def main(modules: Sequence[str], worlds: Sequence[int], folder: str, apart: bool) -> None:
    """The process that the ranks are forks of."""
    found = [importlib.import_module(name) for name in modules]
    # What the cases would import when they run, the first of them by any optimizer.
    for name in ("torch._dynamo", *(name for one in found for name in getattr(one, "SHARED", ()))):
        importlib.import_module(name)
    cases = [case for one in found for case in one.CASES]
    assert len({case.__name__ for case in cases}) == len(cases), "two cases have one name"
    context = multiprocessing.get_context("fork")
    for world in worlds:
        for together in [[case] for case in cases] if apart else [cases]:
            ranks = [
                context.Process(target=_run_cases, args=(together, rank, world, folder, apart))
                for rank in range(world)
            ]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join()
            ended = [process.exitcode for process in ranks]
            assert apart or not any(ended), f"the {world} ranks ended with {ended}"


def _run_cases(
    cases: Sequence[Callable[[], Any]], rank: int, world: int, folder: str, apart: bool
) -> None:
    """One rank: run the cases and leave what they gave."""
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(f"{folder}/{cases[0].__name__}-of-{world}", world),
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
        if not apart:
            dist.barrier()
    name = f"told-{rank}-{cases[0].__name__}-of-{world}"
    Path(folder, name).write_bytes(pickle.dumps(told))
    if apart:
        os._exit(0)  # the group may be broken
    dist.destroy_process_group()


def values(told: list[Told]) -> list[Any]:
    """What all ranks gave; an error of one is ours."""
    for rank, of_rank in enumerate(told):
        assert of_rank.error is None, f"rank {rank}: {of_rank.trace}"
    return [of_rank.value for of_rank in told]


def require_error(
    told: list[Told],
    words: str,
    *,
    is_one_ranks: bool,
    kind: str = "",
    place: str = r"rank {last}",
) -> None:
    """Assert that all ranks failed with these words, and say whose error it is.

    Args:
        told: of every rank.
        words: in each message.
        is_one_ranks: whether it is the last rank's own, which the others name.
        kind: of error.
        place: a pattern of what they call it.
    """
    last = len(told) - 1
    named = re.compile(place.format(last=last) + ": ")
    for rank, of_rank in enumerate(told):
        assert of_rank.error, f"rank {rank}: {of_rank}"
        assert kind in of_rank.error, f"rank {rank}: {of_rank.trace}"
        assert words in of_rank.message, f"rank {rank}: {of_rank.trace}"
        from_there = bool(named.match(of_rank.message))
        assert from_there == (is_one_ranks and rank != last), of_rank.message
