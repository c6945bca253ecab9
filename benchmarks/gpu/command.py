"""The command of the report: finds the device, runs one part after another, writes after each."""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import page, parts
from benchmarks.gpu.folder import ROOT, Folder
from benchmarks.gpu.parts import Part

SCRIPT = ROOT / "benchmarks/gpu_report.py"
DEFAULT_FOLDER = ROOT / "build/gpu-report"
DEFAULT_MINUTES = 8.0
#: Torch may take this long to start where nothing of it is in memory yet.
DEVICE_SECONDS = 120.0

DESCRIPTION = """\
On a machine with a GPU: builds the package from this clone with what the machine has (no download,
no environment), then runs, in this order, every op once against float64; the tests marked `gpu`;
training steps with statistics from the layers; every op beside torch and a copy; what torch
compiles; compute-sanitizer. Each part has a process and a time limit of its own and keeps every
result when it is known, so that a part that fails or is late leaves the others whole.

Everything is written below one folder: report.md, report.json, the results line by line, the parts'
logs, and all that is built, compiled or cached.

Exit status: 0; 1 where a part failed or found something wrong; 2 where there is no GPU.
"""
EXAMPLES = """\
examples:
  python benchmarks/gpu_report.py                        all of it, at most 8 minutes
  python benchmarks/gpu_report.py --minutes 30 --out DIR more rounds, and a folder of your own
  python benchmarks/gpu_report.py --parts build,smoke    these parts alone
  python benchmarks/gpu_report.py --parts ops --only norm --installed
                                                         some ops of the package that is installed
  python benchmarks/gpu_report.py --rehearse             on a CPU: shows that all of it runs
"""

DTYPES = ("float32", "bfloat16", "float16")

#: The module that does each kind of part.
MODULES = {
    "device": "device",
    "build": "build",
    "smoke": "smoke",
    "tests": "gpu_tests",
    "training": "training",
    "ops": "ops",
    "compile": "ops",
    "memcheck": "sanitizers",
    "racecheck": "sanitizers",
    "once": "once",
}

RACECHECK = "ops of cuda once, under racecheck (which knows no reductions of Triton)"


def planned(*, rehearsed: bool) -> list[Part]:
    """The parts in their order, each with its largest share of the time that is left then."""
    ways = ("cpu",) if rehearsed else ("cuda", "triton")
    smoke = tuple(("--way", way, "--dtype", dtype) for way in (*ways, "reference")
                  for dtype in DTYPES)  # fmt: skip
    shares = {"cuda": 0.4, "triton": 0.35, "cpu": 0.4, "reference": 0.2}
    return [
        # Without it most of what follows has nothing to measure; on two busy cores it is minutes.
        Part("build", "the package, built from this clone", 0.8),
        Part("smoke", "every op once, against float64", 0.25, smoke),
        Part("tests", "tests marked gpu", 0.35),
        *(
            Part(f"training-{way}", f"training steps, {way}", shares[way], (("--way", way),))
            for way in (*ways, "reference")
        ),
        Part("ops", "every op, beside torch and a copy", 0.6),
        Part("compile", "the same beside what torch compiles", 0.5),
        *(
            Part(f"memcheck-{way}", f"ops of {way} once, under memcheck", 0.5, (("--way", way),))
            for way in ways
        ),
        *([] if rehearsed else [Part("racecheck-cuda", RACECHECK, 1.0, (("--way", "cuda"),))]),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the report, or one process of a part; the exit status."""
    options = _parser().parse_args(arguments)
    folder = Folder(options.out.absolute())
    if options.part:
        return _run_part(options, folder)
    start = time.monotonic()
    wanted = _wanted(options)
    folder.clear(["device", "report", *(part.name for part in wanted)])
    environment = folder.environment(os.environ, installed=options.installed)
    command = _Command(options, folder)
    device = Part("device", "the GPU", 1.0)
    outcome = parts.run(device, folder, DEVICE_SECONDS, environment, command)
    found = next(folder.results("device"), {"missing": outcome.details})
    if "missing" in found:
        print(f"gpu_report: there is no GPU to measure: {found['missing']}", file=sys.stderr)
        return 2
    folder.keep("report", date=datetime.date.today().isoformat(), rehearsed=options.rehearse,
                facts=found["facts"], minutes=options.minutes)  # fmt: skip
    status = 0
    deadline = start + 60 * options.minutes
    for part in wanted:
        limit = part.share * max(0.0, deadline - time.monotonic())
        print(f"{part.name}: at most {limit:.0f} s", flush=True)
        outcome = parts.run(part, folder, limit, environment, command)
        outcome = parts.by_results(outcome, folder.results(part.name))
        folder.keep("parts", name=part.name, what=part.what, **vars(outcome))
        print(f"{part.name}: {outcome.status} after {outcome.seconds:.0f} s {outcome.details}",
              flush=True)  # fmt: skip
        status = max(status, int(outcome.status == "failed"))
        page.write(folder)
    print(f"written: {folder.path / 'report.md'}")
    return status


class _Command:
    """Gives the command lines of parts' processes."""

    def __init__(self, options: argparse.Namespace, folder: Folder) -> None:
        self._given = ["--out", str(folder.path)]
        self._given += ["--rehearse"] if options.rehearse else []
        self._given += ["--only", options.only] if options.only else []
        self._given += ["--tests", options.tests] if options.tests else []
        self._given += ["--size", str(options.size)] if options.size else []

    def __call__(self, part: Part, own: Sequence[str], limit: float) -> list[str]:
        seconds = ("--seconds", f"{limit:.1f}")
        return parts.of_python(SCRIPT, "--part", part.name, *self._given, *seconds, *own)


def _run_part(options: argparse.Namespace, folder: Folder) -> int:
    from benchmarks.gpu.job import Job

    job = Job(
        options.part, folder, options.seconds, options.way, options.dtype, options.rehearse,
        options.only, options.tests, options.size,
    )  # fmt: skip
    job.hide()
    module = importlib.import_module(f"benchmarks.gpu.{MODULES[options.part.partition('-')[0]]}")
    module.run(job)
    return 0


def _wanted(options: argparse.Namespace) -> list[Part]:
    """The parts that were asked for; without the build where the installed package is measured."""
    every = planned(rehearsed=options.rehearse)
    names = options.parts.split(",") if options.parts else [part.name for part in every]
    known = {part.name for part in every} | {part.name.partition("-")[0] for part in every}
    for name in names:
        if name not in known:
            sys.exit(f"gpu_report: no part is named {name!r}; there are {', '.join(sorted(known))}")
    return [
        part
        for part in every
        if (part.name in names or part.name.partition("-")[0] in names)
        and not (options.installed and part.name == "build")
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_report",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", metavar="DIR", type=Path, default=DEFAULT_FOLDER,
        help="folder of the report (default build/gpu-report)")  # fmt: skip
    add("--minutes", metavar="N", type=float, default=DEFAULT_MINUTES,
        help="time for all of it (default 8)")  # fmt: skip
    add("--parts", metavar="NAME,...", default="", help="these parts alone")
    add("--only", metavar="TEXT", default="",
        help="cases whose op or title, or models whose name, contains TEXT")  # fmt: skip
    add("--tests", metavar="PATH", default="", help="these tests (default python_tests)")
    add("--size", metavar="MIB", type=int, help="size of G (default 1024, less on small devices)")
    add("--installed", action="store_true", help="measure the package of this Python, build none")
    add("--rehearse", action="store_true", help="on a CPU in a GPU's place; no figure is a GPU's")
    for name in ("--part", "--way", "--dtype"):
        add(name, default="", help=argparse.SUPPRESS)
    add("--seconds", type=float, default=600.0, help=argparse.SUPPRESS)
    return parser
