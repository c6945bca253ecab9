"""``python -m gpu_ladder check``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_ladder.check.results import Found, RungResult, sentences

TEACHES = """\
The launches are described in Python, in a function `launches` that gives gpu_ladder.check.Launch.
For saxpy.cu it is looked for in saxpy.py, for my_kernels.py in that file itself:

    import numpy as np
    from gpu_ladder.check import Launch, Output

    def launches():
        x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
        yield Launch(
            "saxpy",                        # or any expression: "scale<float>"
            grid=8,
            block=128,                      # of Triton, options={"num_warps": 4} instead
            arguments={"n": 1000, "a": 2.0, "x": x, "y": Output(1000, np.float32)},
            expected={"y": 2 * x},
            vector_bytes=16,                # optional: narrower accesses are found
            efficiency=0.9,                 # optional: sectors moved for nothing are found
        )

Arrays are memory that the kernel may touch, to the byte; an Output holds nothing until it is
written. What a kernel must not do is found whether or not a number comes out wrong: races between
threads or programs, accesses out of bounds, misaligned, or of memory that nothing wrote, barriers
and shuffles that not all threads reach, waiting for ever.

  checked     CUDA: the source, a fiber for each thread, in three orders of threads and blocks,
              every access watched. Triton: the source in Triton's interpreter, likewise.
  ptx         what nvcc or Triton makes of it for --arch, executed warp by warp in three orders,
              every access watched, with the bytes and sectors that it moves
  sanitized   CUDA: the source under AddressSanitizer and UndefinedBehaviorSanitizer

exit status   0: nothing was found; 1: something was; 2: it could not be checked
"""
RUNGS = {".cu": ("checked", "ptx", "sanitized"), ".py": ("checked", "ptx")}
USUAL = ("checked", "ptx")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    options = _parser().parse_args(arguments)
    try:
        source, kernel = _named(options.source)
        launches = _launches(source, options.launches)
        rungs = _rungs(source, options.rungs)
    except ValueError as error:
        print(f"gpu_ladder: {error}", file=sys.stderr)
        return 2
    job = {
        "source": str(source),
        "launches": str(launches),
        "kernel": kernel,
        "include": [str(Path(folder).resolve()) for folder in options.include],
        "architecture": options.arch,
    }
    answers = {rung: _asked(rung, job, options.timeout) for rung in rungs}
    return _report(options, answers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpu_ladder",
        description="Checks GPU kernels on a machine without a GPU.",
    )
    commands = parser.add_subparsers(required=True, metavar="check")
    check = commands.add_parser(
        "check",
        help="run a kernel of CUDA or Triton on the CPU, and say what is wrong with it",
        description="Runs a kernel on the CPU with every access watched, and says what is wrong.",
        epilog=TEACHES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "source", help="kernels.cu or my_kernels.py; with :NAME behind it, that kernel alone"
    )
    check.add_argument("--launches", metavar="FILE", help="the description, where it is elsewhere")
    check.add_argument(
        "--rungs",
        default="",
        metavar="RUNG,...",
        help="checked,ptx by default; each is told of below",
    )
    check.add_argument(
        "--arch", type=int, default=90, metavar="N", help="of PTX: 80, 90 (default), 100 or 120"
    )
    check.add_argument(
        "-I", "--include", action="append", default=[], metavar="DIR", help="headers of a .cu file"
    )
    check.add_argument("--traffic", action="store_true", help="list what every access has moved")
    check.add_argument("--json", action="store_true", help="one object, with traffic, on stdout")
    check.add_argument(
        "--timeout", type=float, default=600.0, metavar="S", help="of a rung, 600 seconds"
    )
    return parser


def _named(given: str) -> tuple[Path, str | None]:
    """The file, and the kernel behind its name."""
    found = re.fullmatch(r"(.*?\.(?:cu|py))(?::(.+))?", given)
    if found is None:
        raise ValueError(
            f"{given} is neither a .cu nor a .py file; accepted are FILE and FILE:NAME"
        )
    path = Path(found[1])
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path.resolve(), found[2]


def _launches(source: Path, given: str | None) -> Path:
    path = source.with_suffix(".py") if given is None else Path(given).resolve()
    if not path.is_file():
        raise ValueError(
            f"the launches of {source.name} are described nowhere: there is no {path}; write it "
            "(--help shows how), or name it by --launches"
        )
    return path


def _rungs(source: Path, given: str) -> list[str]:
    asked = given.split(",") if given else list(USUAL)
    known = RUNGS[source.suffix]
    wrong = [rung for rung in asked if rung not in known]
    if wrong:
        raise ValueError(
            f"{source.suffix} files have no rung {wrong[0]!r}; accepted are {', '.join(known)}"
        )
    return asked


def _asked(rung: str, job: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """What a process of its own says: a result, an error, or why it was left out."""
    environment = dict(os.environ)
    if rung == "sanitized":
        from gpu_ladder.emulated import sanitizer_environment

        try:
            environment = sanitizer_environment()
        except FileNotFoundError as error:
            return {
                "error": f"there is no compiler {error.filename}, whose sanitizers this rung "
                "loads; CXX names another"
            }
    environment["TRITON_INTERPRET"] = "1" if rung == "checked" else "0"
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "gpu_ladder.check.worker", rung, json.dumps(job)]
        try:
            done = subprocess.run(
                [*command, str(answer)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"it did not end within {timeout:g} s; --timeout gives it more"}
        if answer.is_file():
            told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
            return told
    return {"result": dataclasses.asdict(_ended(rung, done))}


def _ended(rung: str, done: subprocess.CompletedProcess[str]) -> RungResult:
    """Of a process that a kernel, or a sanitizer, has ended."""
    pattern = r"AddressSanitizer: ([\w-]+).*|(\S+:\d+):\d+: runtime error: (.*)"
    said = re.search(pattern, done.stderr)
    message = f"the process ended with status {done.returncode}: {done.stderr[-2000:].strip()}"
    site = ""
    if said is not None:
        message = said[3] or said[0]
        # The first frame with a line that is the user's and not of the models.
        frames = re.findall(r"#\d+ \S+ in .*? (\S+:\d+)", done.stderr)
        own = [frame for frame in frames if "/gpu_ladder/runtime/" not in frame]
        site = said[2] or next(iter(own), "")
    return RungResult(rung, [], [Found("crash", "the process", message, site)])


def _report(options: argparse.Namespace, answers: Mapping[str, dict[str, Any]]) -> int:
    results = {r: RungResult.of(a["result"]) for r, a in answers.items() if "result" in a}
    found = any(result.findings for result in results.values())
    failed = any("error" in answer for answer in answers.values()) or not results
    status = 1 if found else 2 if failed else 0
    if options.json:
        print(json.dumps({"source": options.source, "status": status, "rungs": answers}, indent=1))
        return status
    for rung, answer in answers.items():
        if rung in results:
            print(*sentences(results[rung], options.traffic), sep="\n")
        else:
            what = "left out" if "left_out" in answer else "not checked"
            print(f"{rung}: {what}: {answer.get('left_out') or answer['error']}")
    return status
