"""`adadagrad-kernels doctor`."""

from __future__ import annotations

import argparse
import json
import textwrap
from importlib import metadata

from adadagrad_kernels.integrations.checkup.findings import Finding, findings_of, parts_of
from adadagrad_kernels.training.errors import UsageError
from adadagrad_kernels.training.readers import imported

#: Libraries whose trainers there are adapters for.
_TRAINERS = ("transformers", "accelerate", "lightning")


def run(arguments: argparse.Namespace) -> int:
    """Prints what is found in what a function builds, or in the installation.

    Returns:
        1 where something is found, 0 otherwise.
    """
    path = arguments.path
    if path is not None and ":" not in path:
        raise UsageError(f"expected MODULE:FUNCTION, such as mypackage.train:make, not {path!r}")
    parts = parts_of() if path is None else parts_of(imported("doctor", path)())
    found = findings_of(parts)
    if arguments.json:
        told = {
            "looked_at": parts.looked_at,
            "trainers": _versions(),
            "findings": [finding.as_dict() for finding in found],
        }
        print(json.dumps(told, indent=2))
    else:
        print("\n\n".join([_looked_at(parts.looked_at), *map(_paragraph, found), _count(found)]))
    return 1 if found else 0


def _versions() -> dict[str, str | None]:
    """Of the trainers, None for one that is not installed."""
    return {name: _version(name) for name in _TRAINERS}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _looked_at(names: list[str]) -> str:
    trainers = ", ".join(f"{n} {v or 'not installed'}" for n, v in _versions().items())
    return f"looked at  {', '.join(names)}\ntrainers   {trainers}"


def _paragraph(finding: Finding) -> str:
    lines = [finding.code]
    for name, text in (
        ("where", finding.where),
        ("means", finding.reason),
        ("change", finding.change),
    ):
        indent = " " * 10
        lines.append(
            textwrap.fill(
                f"  {name:<8}{text.replace('`', '')}",
                98,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
    return "\n".join(lines)


def _count(found: list[Finding]) -> str:
    if not found:
        return "nothing found"
    return f"{len(found)} finding{'s' if len(found) > 1 else ''}"
