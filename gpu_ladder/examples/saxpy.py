"""How saxpy.cu is launched, for ``python -m gpu_ladder check saxpy.cu``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpu_ladder.check import Launch


def launches() -> Iterator[Launch]:
    """One size that four divides, and one with a tail."""
    rng = np.random.default_rng(0)
    for n in (1024, 1001):
        x, y = rng.standard_normal((2, n)).astype(np.float32)
        yield Launch(
            "saxpy",
            name=f"saxpy of {n}",
            grid=-(-n // 512),
            block=128,
            arguments={"n": n, "a": 2.0, "x": x, "y": y.copy()},
            expected={"y": 2.0 * x + y},
            vector_bytes=16,
            efficiency=0.99,
        )
