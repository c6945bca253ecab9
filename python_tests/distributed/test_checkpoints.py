"""A run that torch.distributed.checkpoint saved on two ranks goes on, on one and on all."""

from __future__ import annotations

import checkpoint_cases
import pytest
from support.ranks import Told, values


@pytest.mark.parametrize("case", [case.__name__ for case in checkpoint_cases.CASES])
def test_runs_go_on_as_if_never_stopped(told: dict[str, list[Told]], case: str) -> None:
    for of_rank in values(told[case]):
        for world in ("one", "all"):
            far, decided = of_rank[world]
            assert far < 1e-12
            assert decided == pytest.approx(of_rank["expected"], rel=1e-10)
