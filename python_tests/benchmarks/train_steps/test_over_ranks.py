"""The ranks whose steps are timed take those that they are told, and an error of one is seen."""

from __future__ import annotations

import pytest

from benchmarks.train_steps import over_ranks
from benchmarks.train_steps.steps import NORMS


def test_ranks_take_a_step_together_and_end() -> None:
    missing = over_ranks._missing()
    if missing:
        pytest.skip(missing)
    ranks = over_ranks._Processes("CNN")
    for step in (over_ranks.PLAIN, over_ranks._local(NORMS), over_ranks._pooled(NORMS)):
        ranks.take(step)
    processes = ranks._ranks
    assert [process.poll() for process in processes] == [None, None]
    with pytest.raises(RuntimeError, match="a rank has ended"):
        ranks.take("no such step")
    del ranks
    assert None not in [process.poll() for process in processes]
