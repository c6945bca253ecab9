"""Tests and times the kernels on a GPU: ``python benchmarks gpu-report --help``."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import time
from pathlib import Path

import gpu_device
import gpu_right
from gpu_contenders import Workbench
from gpu_measure import measure_all
from gpu_page import Report, as_data, page
from gpu_plan import MIB, plan

from adadagrad_kernels import __version__
from adadagrad_kernels.backends import BACKENDS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/internals/gpu_report.md"
RESULTS = Path(__file__).parent / "results"
OURS = ("cuda", "triton")
#: Contenders keep copies of G; this many fit into the memory that is free.
COPIES = 12
#: Shares of the time for the tests and for compute-sanitizer; what they leave is for measuring.
TESTS, SANITIZERS = 0.4, 0.2

DESCRIPTION = """\
On a machine with a GPU: runs the tests marked `gpu`, runs every op under compute-sanitizer where
that is installed, then times every op of the backends cuda and triton against torch (eager,
compiled, its own optimizers) and against a copy of the same bytes, and writes one page.

Time is the device's own (events), contenders take turns in every round, other data fills the L2
cache before each call, and medians stand beside their quartiles. Cases come in the order of their
weight: where the time is up, the page lists what was left out.

Exit status: 0; 1 where a test failed, compute-sanitizer found something or an op of ours raised; 2
where there is no GPU.
"""
EXAMPLES = """\
examples:
  python benchmarks gpu-report                all of it, at most 8 minutes, and the page
  python benchmarks gpu-report --quick        a first look: no compilers, no sanitizer, 2 minutes
  python benchmarks gpu-report --only norm    cases whose op or title contains "norm", printed
  python benchmarks gpu-report --size 4096    G of 4 GiB instead of 1 GiB
"""


def main(arguments: list[str] | None = None) -> int:
    """Test, measure and write; the exit status."""
    options = _parser().parse_args(arguments)
    start = time.monotonic()
    reason = gpu_device.unavailable()
    if reason is not None:
        print(f"gpu_report: there is no GPU to measure: {reason}", file=sys.stderr)
        return 2
    missing = {name: BACKENDS[name].unavailable() for name in OURS}
    backends = tuple(name for name in OURS if missing[name] is None)
    if not backends:
        reasons = "; ".join(f"{name}: {why}" for name, why in missing.items())
        print(f"gpu_report: no backend can run on this GPU: {reasons}", file=sys.stderr)
        return 2
    device = gpu_device.CudaDevice()
    if options.once:
        print(f"{gpu_right.run_once(device.name, backends)} calls, each once")
        return 0
    seconds = 60.0 * (options.minutes or (2 if options.quick else 8))
    machine = {
        "package": __version__,
        "date": datetime.date.today().isoformat(),
        **device.facts(),
        **{f"backend {name}": why or "runs" for name, why in missing.items()},
    }
    outcomes = []
    if not options.only:
        _tell("tests marked gpu")
        outcomes.append(gpu_right.run_tests(seconds * TESTS))
        if not options.quick:
            _tell("compute-sanitizer")
            outcomes += gpu_right.run_sanitizers(seconds * SANITIZERS)
    size = _size(options, device.free_bytes())
    machine["size of G"] = f"{size // MIB} MiB"
    bench = Workbench(device.name, size, backends, compiled=not options.quick)
    cases = [c for c in plan(bench, quick=options.quick) if options.only in f"{c.op}: {c.title}"]
    if not cases:
        print(f"gpu_report: no case contains {options.only!r}", file=sys.stderr)
        return 2
    results = measure_all(cases, device, deadline=start + seconds, tell=_tell)
    machine["clock at the end"] = device.facts()["clock"]
    report = Report(machine, outcomes, results)
    _write(report, options)
    for failure in report.failed:
        print(f"gpu_report: {failure}", file=sys.stderr)
    return 1 if report.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_report",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", metavar="N", type=float, help="time for all of it (default 8; 2 with --quick)")
    add("--quick", action="store_true", help="less of everything, for a first look; prints")
    add("--only", metavar="TEXT", default="", help="time cases that contain TEXT; prints")
    add("--size", metavar="MIB", type=int, help="size of G (default 1024, less on small devices)")
    add(
        "--page",
        metavar="FILE",
        type=Path,
        help="write the page there (default docs/internals/gpu_report.md)",
    )
    add("--once", action="store_true", help="run every op of ours once on little data, untimed")
    return parser


def _size(options: argparse.Namespace, free_bytes: int) -> int:
    """Bytes of G: what was asked for, or what fits."""
    asked = (options.size or (256 if options.quick else 1024)) * MIB
    return int(min(asked, max(MIB, free_bytes // COPIES // MIB * MIB)))


def _write(report: Report, options: argparse.Namespace) -> None:
    """The page and the data; only to the terminal for a part of the measurements."""
    text = page(report)
    whole = not options.only and not options.quick
    target: Path | None = options.page or (PAGE if whole else None)
    if target is None:
        print(text)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(f"written: {target}")
    if whole:
        data = RESULTS / f"gpu_{_file_name(report.machine['GPU'])}.json"
        data.write_text(json.dumps(as_data(report), indent=2) + "\n", encoding="utf-8")
        print(f"written: {data}")


def _file_name(device: str) -> str:
    return re.sub(r"\W+", "_", device.lower()).strip("_")


def _tell(what: str) -> None:
    """What is being done, one line that is written over; nothing where there is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what[:100]}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
