"""Builds what most tests of GPU kernels run on: ``python -m gpu_ladder.prepare``.

Each test builds what it needs where that is missing. Before the tests it is built while a core is
idle, and by one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from gpu_ladder.host_build import build
from gpu_ladder.ptx.build_engine import engine_library

#: The machine for PTX, and the kernels of this repository on the host model, without checks and
#: with them.
PARTS: tuple[Callable[[], object], ...] = (
    engine_library,
    partial(build, "plain"),
    partial(build, "checked"),
)


def main() -> None:
    """Build them beside each other, as far as there are cores."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(PARTS))) as pool:
        for built in pool.map(lambda part: part(), PARTS):
            print(built)


if __name__ == "__main__":
    main()
