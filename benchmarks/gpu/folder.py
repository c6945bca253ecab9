"""Where a report is written: the one folder below which everything goes, line by line as it comes.

Imports neither torch nor the package: this runs where either may fail.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Record = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """The folder of a report.

    Attributes:
        path: an absolute path; made when something is written.
    """

    path: Path

    @property
    def package(self) -> Path:
        """What goes onto Python's path: the package built from this clone."""
        return self.path / "package"

    def log(self, part: str) -> Path:
        """What the processes of a part printed."""
        return self._made("logs") / f"{part}.txt"

    def keep(self, part: str, **record: Any) -> None:
        """Add a line to a part's results; whole at once, as several processes may write."""
        line = json.dumps({"part": part, **record}) + "\n"
        target = self._made("results") / f"{part}.jsonl"
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def results(self, part: str) -> Iterator[Record]:
        """The lines of a part; a last one that was cut off in the middle is left out."""
        target = self.path / "results" / f"{part}.jsonl"
        if not target.is_file():
            return
        for line in target.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)

    def clear(self, parts: Iterable[str]) -> None:
        """Remove what these parts found before; what was built and compiled is kept."""
        for part in parts:
            (self.path / "results" / f"{part}.jsonl").unlink(missing_ok=True)
            (self.path / "logs" / f"{part}.txt").unlink(missing_ok=True)

    def environment(self, given: Mapping[str, str], *, installed: bool) -> dict[str, str]:
        """Of the parts' processes: the built package first, caches below the folder, no network.

        Args:
            given: the environment of the command.
            installed: whether the package that this Python has is measured, and none is built.
        """
        path = [] if installed else [str(self.package)]
        path += [entry for entry in given.get("PYTHONPATH", "").split(os.pathsep) if entry]
        return {
            **given,
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONPYCACHEPREFIX": str(self._made("cache/python")),
            "TRITON_CACHE_DIR": str(self._made("cache/triton")),
            "TORCHINDUCTOR_CACHE_DIR": str(self._made("cache/inductor")),
            "CUDA_CACHE_PATH": str(self._made("cache/cuda")),
            "XDG_CACHE_HOME": str(self._made("cache")),
            "MPLCONFIGDIR": str(self._made("cache/matplotlib")),
            "TMPDIR": str(self._made("temporary")),
            "HF_HUB_OFFLINE": "1",
            # Hypothesis reads it: the same examples in every run, and no deadline for each.
            "CI": "true",
        }

    def _made(self, name: str) -> Path:
        target = self.path / name
        target.mkdir(parents=True, exist_ok=True)
        return target
