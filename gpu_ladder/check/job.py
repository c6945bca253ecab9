"""What one process is to check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpu_ladder.check.launches import Launch, described, load


@dataclass(frozen=True)
class Job:
    """A source, and how it is launched.

    Args:
        source: a .cu file, or a .py file with Triton functions.
        launches: the file that describes them.
        kernel: the one that is asked for; None for all.
        include: folders of headers, for CUDA.
        architecture: of PTX, 90 for sm_90.
    """

    source: Path
    launches: Path
    kernel: str | None = None
    include: tuple[Path, ...] = ()
    architecture: int = 90

    def described(self) -> list[Launch]:
        """The launches, with memory of their own."""
        return described(load(self.launches), self.kernel)
