"""How sums.cu is launched, for ``python -m gpu_ladder check sums.cu``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpu_ladder.check import Launch, Output


def launches() -> Iterator[Launch]:
    """Three rows."""
    rows = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    yield Launch(
        "row_sums",
        grid=3,
        block=256,
        shared_bytes=4 * 256,
        arguments={"rows": rows, "sums": Output(3, np.float32)},
        expected={"sums": rows.sum(1)},
    )
