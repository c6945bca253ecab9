"""The models whose training steps are measured, small."""

from __future__ import annotations

import pytest

from benchmarks.train_steps.models import cnn, gpt, mlp

CASES = {
    "mlp": mlp(9, width=24),
    "cnn": cnn(5),
    "gpt": gpt(3, layers=1, width=16, tokens=6),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
