"""The parts of a report, and how one runs: processes of its own, a log, a time limit.

Whatever happens to one part, the results that it had kept stay, and the others run. Imports neither
torch nor the package.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.folder import Folder, Record

#: What a process is given beyond its limit to end by itself, and what it has to go.
GRACE_SECONDS = 2.0
#: So many reasons are named for what was not done.
MOST_REASONS = 3


@dataclass(frozen=True)
class Part:
    """One part of a report.

    Attributes:
        name: of its results and its log.
        what: one line for the page.
        share: of the time that is left when it begins, so much is its limit.
        processes: options of each of its processes, which run side by side.
    """

    name: str
    what: str
    share: float
    processes: tuple[tuple[str, ...], ...] = ((),)


@dataclass(frozen=True)
class Outcome:
    """How a part went.

    Attributes:
        status: ``done``, ``in part``, ``skipped``, ``failed``, or ``time limit``.
        seconds: it took.
        details: the last line of what failed, the limit, or why something was not done.
    """

    status: str
    seconds: float
    details: str = ""


Command = Callable[[Part, Sequence[str], float], Sequence[str]]


def run(
    part: Part, folder: Folder, limit: float, environment: Mapping[str, str], command: Command
) -> Outcome:
    """Run a part's processes side by side and wait for them, at most ``limit`` seconds.

    Args:
        part: which.
        folder: where its processes start, and where their output goes.
        limit: in seconds; what still runs then is ended, with its own children.
        environment: of the processes.
        command: gives the command line of a process.
    """
    start = time.monotonic()
    processes = []
    with folder.log(part.name).open("wb") as log:
        try:
            processes = [
                subprocess.Popen(
                    command(part, options, limit),
                    cwd=folder.path,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                for options in part.processes
            ]
            late = not _all_end(processes, start + limit)
        finally:
            for process in processes:
                _end(process)
    taken = time.monotonic() - start
    if late:
        return Outcome("time limit", taken, f"not done after {limit:.0f} s")
    if any(process.returncode for process in processes):
        return Outcome("failed", taken, last_line(folder.log(part.name)))
    return Outcome("done", taken)


def by_results(outcome: Outcome, records: Iterable[Record]) -> Outcome:
    """The outcome of processes that have all ended well, by what they have kept.

    What could not be done on this machine has its reason in ``missing``, or is a skipped test.
    """
    kept = list(records)
    skipped = [r for r in kept if r.get("missing") or r.get("outcome") == "skipped"]
    missing = [r for r in skipped if r.get("missing")]
    if outcome.status != "done" or not (missing or (skipped and len(skipped) == len(kept))):
        return outcome
    status = "skipped" if len(skipped) == len(kept) else "in part"
    reasons = list(dict.fromkeys(_reason(record) for record in missing or skipped))
    more = f" (and {len(reasons) - MOST_REASONS} more)" if len(reasons) > MOST_REASONS else ""
    return Outcome(status, outcome.seconds, "; ".join(reasons[:MOST_REASONS]) + more)


def _reason(record: Record) -> str:
    """Why a module, a backend or a test is not there, and which it is."""
    if not record.get("missing"):
        return str(record["details"])
    return ": ".join(
        str(record[key]) for key in ("module", "backend", "missing") if record.get(key)
    )


def _all_end(processes: Sequence[subprocess.Popen[bytes]], until: float) -> bool:
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it has started; first with time to close its files."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
            if number == signal.SIGTERM and not _group_lives(process.pid):
                return


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def last_line(log: Path) -> str:
    """What a program said last: for Python, the error."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip("= ")[:200] if lines else "(no output)"


def of_python(script: Path, *arguments: str) -> list[str]:
    """A command line of this Python."""
    return [sys.executable, str(script), *arguments]
