"""The commands of the benchmarks: ``python benchmarks COMMAND``, from any folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

#: The module of each, whose ``main`` takes the arguments and gives the exit status.
COMMANDS = {
    "limits": "benchmarks.limits",
    "plan": "benchmarks.planned.command",
    "gpu-report": "benchmarks.gpu.command",
}


def main(arguments: list[str]) -> int:
    """Hand the arguments to the command that the first one names."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: python benchmarks {{{','.join(COMMANDS)}}} ...", file=sys.stderr)
        return 2
    # The folder above comes first while `benchmarks` is found: Opacus installs another one. It has
    # the sources of the package too, which must not hide the installed one, so it does not stay
    # there; `python -m benchmarks` would leave it first.
    root = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, root)
    importlib.import_module("benchmarks")
    sys.path.remove(root)
    command = importlib.import_module(COMMANDS[arguments[0]])
    return int(command.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
