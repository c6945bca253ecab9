"""Makes runs one after another, or several at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.reproduce.results import Run

#: Of a process that makes runs: all of them.
_listed: Sequence[Run] = ()


def made(runs: Sequence[Run], jobs: int = 1) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Yields every run with its figures when it and those before it are done.

    With several jobs the processes are forks, since what makes a run cannot be pickled: this one
    must not have used torch's threads before.
    """
    if jobs == 1:
        for run in runs:
            yield run, run.measure()
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(jobs, context, initializer=_list, initargs=(runs,))
    try:
        yield from zip(runs, pool.map(_measure, range(len(runs))), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _list(runs: Sequence[Run]) -> None:
    global _listed
    _listed = runs


def _measure(place: int) -> dict[str, Any]:
    return _listed[place].measure()
