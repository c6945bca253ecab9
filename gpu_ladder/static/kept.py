"""Keeps what was read from a cubin, by its content: disassembling takes longer than all else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from gpu_ladder.static import machine_code
from gpu_ladder.static.facts import Instructions, Resources
from gpu_ladder.static.toolchain import Toolchain

Facts = dict[str, tuple[Resources, Instructions]]


def read(tools: Toolchain, cubin: Path, architecture: int, cache: Path) -> Facts:
    """Resources and instructions of every function in ``cubin``, by its mangled name.

    From ``cache`` where the same code was read before by the same tools.
    """
    key = hashlib.sha256(cubin.read_bytes())
    key.update(Path(machine_code.__file__).read_bytes())
    key.update(f"{tools.nvdisasm_version} {architecture}".encode())
    kept = cache / "facts" / f"{key.hexdigest()[:24]}.json"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_read(tools, cubin, architecture))
        with tempfile.NamedTemporaryFile(
            "w", dir=kept.parent, delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        Path(file.name).replace(kept)
    return {name: _facts(*pair) for name, pair in json.loads(kept.read_text("utf-8")).items()}


def _read(tools: Toolchain, cubin: Path, architecture: int) -> dict[str, Any]:
    resources = machine_code.resources(tools, cubin, architecture)
    return {
        name: (dataclasses.asdict(resources[name]), dataclasses.asdict(code))
        for name, code in machine_code.instructions(tools, cubin).items()
    }


def _facts(resources: dict[str, int], code: dict[str, Any]) -> tuple[Resources, Instructions]:
    """JSON has made texts of the widths."""
    widths = {name: value for name, value in code.items() if isinstance(value, dict)}
    code |= {
        name: {int(width): count for width, count in counts.items()}
        for name, counts in widths.items()
    }
    return Resources(**resources), Instructions(**code)
