"""The command: ``python -m gpu_ladder.static --help``."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_ladder.static import checks, cuda_gate, triton_gate
from gpu_ladder.static.checks import Budget
from gpu_ladder.static.excerpt import architectures_of, excerpt
from gpu_ladder.static.facts import Kernel
from gpu_ladder.static.page import page
from gpu_ladder.static.toolchain import ToolMissingError, require

TRAFFIC = cuda_gate.ROOT / "gpu_ladder/results/traffic.json"
COMMAND = "make gpu-static"

DESCRIPTION = """\
Compiles GPU kernels for every architecture, reads registers, spills, shared memory and the widths
of loads and stores from the machine code, calculates occupancy, and holds all of it against
budgets. No GPU and no driver are needed: nvcc and Triton are Python packages
(requirements/cuda.txt).

It writes one page of tables. Exit status: 0 where every budget is kept, 1 where one is broken or,
with --check, the page is out of date, 2 where a tool is missing or an argument is wrong.
"""
EXAMPLES = """\
examples:
  python -m gpu_ladder.static                     write the page, check the budgets
  python -m gpu_ladder.static --check             write nothing; fail where the page would change
  python -m gpu_ladder.static --check --architectures 90
                                                  the same for what the page says of sm_90
  python -m gpu_ladder.static --only moments      look at some kernels: print them, write nothing
  python -m gpu_ladder.static --only moments --architectures 90
  python -m gpu_ladder.static --json -            everything as JSON, to the terminal

another project:
  python -m gpu_ladder.static --sources kernels --include include --budgets my.budgets \\
    --triton my.triton_kernels --page kernels.md

  my.budgets has BUDGETS, a tuple of gpu_ladder.static.checks.Budget; my.triton_kernels has
  kernels(), which lists objects with name, num_warps, cubin(architecture), ptx(architecture) and
  shared(architecture).
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the gate; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        kernels, absent = _kernels(options)
        budgets: Sequence[Budget] = importlib.import_module(options.budgets).BUDGETS
        versions = _versions()
    except (ToolMissingError, cuda_gate.CompileError, ImportError) as error:
        print(f"gpu_ladder.static: {error}", file=sys.stderr)
        return 2
    if options.only:
        kernels = [kernel for kernel in kernels if options.only in kernel.name]
        budgets = [b for b in budgets if any(b is checks.budget_of(k, budgets) for k in kernels)]
    if not kernels:
        what = (
            f"no kernel's name contains {options.only!r}"
            if options.only
            else (f"there is no kernel to look at in {options.sources} and {options.triton}")
        )
        print(f"gpu_ladder.static: {what}", file=sys.stderr)
        return 2
    traffic = json.loads(TRAFFIC.read_text(encoding="utf-8")) if TRAFFIC.is_file() else None
    text = page(kernels, budgets, versions, absent, traffic)
    violations = checks.check(kernels, budgets)
    if options.json:
        _write_json(options.json, kernels, versions, violations, traffic)
    stale = False
    if options.only and options.json != "-":
        print(text[text.index("\n## ", text.index("## How")) + 1 : text.index("## Bytes")])
    elif options.check:
        stale = _differs(text, options.page, options.architectures)
    elif not options.only:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(text, encoding="utf-8")
    if violations:
        count = "1 budget is" if len(violations) == 1 else f"{len(violations)} budgets are"
        print(f"{count} broken:\n\n{checks.table(violations)}", file=sys.stderr)
    elif options.json != "-":
        names = {kernel.name for kernel in kernels}
        some = set(options.architectures) != set(cuda_gate.ARCHITECTURES)
        where = (
            ", ".join(f"sm_{a}" for a in options.architectures) if some else "every architecture"
        )
        print(f"{len(names)} kernels keep their budgets on {where}")
    return 1 if violations or stale else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpu_ladder.static",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root = cuda_gate.ROOT
    add = parser.add_argument
    add("--check", action="store_true", help="compare with the page instead of writing it")
    add("--only", metavar="TEXT", default="", help="only kernels whose name contains TEXT")
    add("--json", metavar="FILE", help="write all facts there; - for the terminal")
    add("--architectures", metavar="N", type=int, nargs="+", default=cuda_gate.ARCHITECTURES,
        help="such as 80 90 (default: 80 90 100 120)")  # fmt: skip
    add("--sources", metavar="DIR", type=Path, default=root / "csrc/cuda",
        help="folder of .cu files (default: csrc/cuda)")  # fmt: skip
    add("--include", metavar="DIR", type=Path, nargs="*", default=[root / "csrc"],
        help="folders for #include (default: csrc)")  # fmt: skip
    add("--triton", metavar="MODULE", default=triton_gate.MODULE,
        help="module that lists Triton kernels (default: %(default)s)")  # fmt: skip
    add("--budgets", metavar="MODULE", default="gpu_ladder.static.budgets",
        help="module with BUDGETS (default: %(default)s)")  # fmt: skip
    add("--page", metavar="FILE", type=Path, default=root / "docs/internals/gpu_kernels.md",
        help="the page (default: docs/internals/gpu_kernels.md)")  # fmt: skip
    return parser


def _kernels(options: argparse.Namespace) -> tuple[list[Kernel], dict[str, str]]:
    """All kernels, and which groups of them could not be looked at."""
    absent = {}
    sources = sorted(options.sources.glob("*.cu"))
    kernels = cuda_gate.gate(sources, options.include, options.architectures)
    if not sources:
        absent["CUDA"] = "there are no sources"
    reason = triton_gate.missing(options.triton)
    if reason is None:
        kernels += triton_gate.gate(options.triton, options.architectures)
    else:
        absent[triton_gate.GROUP] = reason
    return kernels, absent


def _versions() -> dict[str, str]:
    tools = require()
    versions = {"nvcc": tools.nvcc_version, "nvdisasm": tools.nvdisasm_version}
    try:
        versions["Triton"] = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        versions["Triton"] = "(missing)"
    return versions


def _differs(text: str, file: Path, architectures: Sequence[int]) -> bool:
    kept = file.read_text(encoding="utf-8") if file.is_file() else ""
    if set(architectures) < set(architectures_of(kept)):
        text, kept = excerpt(text, architectures), excerpt(kept, architectures)
    if kept == text:
        return False
    names = ("the page that is kept", "the page as it would be")
    lines = difflib.unified_diff(kept.splitlines(), text.splitlines(), *names, "", "", 0, "")
    shown = list(lines)[:60]
    print(f"{file.name} is out of date; `{COMMAND}` writes it anew:\n", file=sys.stderr)
    print("\n".join(shown), file=sys.stderr)
    return True


def _write_json(
    target: str,
    kernels: Sequence[Kernel],
    versions: Mapping[str, str],
    violations: Sequence[checks.Violation],
    traffic: Any,
) -> None:
    report = {
        "versions": dict(versions),
        "kernels": [dataclasses.asdict(kernel) for kernel in kernels],
        "broken": [dataclasses.asdict(violation) for violation in violations],
        "traffic": traffic,
    }
    text = json.dumps(report, indent=2) + "\n"
    if target == "-":
        print(text, end="")
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(text, encoding="utf-8")
