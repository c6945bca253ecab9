"""`adadagrad-kernels info`."""

from __future__ import annotations

import argparse
import json
import platform
from typing import Any

import torch

import adadagrad_kernels
from adadagrad_kernels import backends
from adadagrad_kernels.cli.table import format_pairs


def run(arguments: argparse.Namespace) -> int:
    """Prints what can run here."""
    information = collect()
    print(json.dumps(information, indent=2) if arguments.json else format_information(information))
    return 0


def collect() -> dict[str, Any]:
    """Gathers versions and what the backends say about themselves."""
    return {
        "versions": {
            "adadagrad-kernels": adadagrad_kernels.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        **backends.describe(),
    }


def format_information(information: dict[str, Any]) -> str:
    """Formats the information for people."""
    isa = information["isa"]
    pairs = [
        *information["versions"].items(),
        ("backends", _lines(_backend(*item) for item in information["backends"].items())),
        ("instruction sets", _lines(_instruction_set(name, isa) for name in isa["compiled"])),
        ("threads", str(information["threads"])),
        ("OpenMP runtimes", _lines(information["openmp"])),
    ]
    return format_pairs(pairs)


def _backend(name: str, missing: str | None) -> str:
    return f"{name}: available" if missing is None else f"{name}: missing, {missing}"


def _instruction_set(name: str, isa: dict[str, Any]) -> str:
    if name == isa["active"]:
        return f"{name}: active"
    return f"{name}: supported" if name in isa["supported"] else f"{name}: not on this machine"


def _lines(items: Any) -> str:
    return "\n".join(items) or "none"
