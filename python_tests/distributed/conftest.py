"""Worlds of two and of four processes, each of which runs the cases of all tests in turn."""

from __future__ import annotations

import pytest
from support import ranks
from support.ranks import Told

#: Whose last case leaves a group that has timed out.
MODULES = (
    "refused_cases",
    "pooled_cases",
    "local_cases",
    "sharded_cases",
    "checkpoint_cases",
    "planned_cases",
    "failing_shards",
    "failing_cases",
)


@pytest.fixture(scope="session", params=[2, 4])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Told]]:
    """What every case gave, on every rank."""
    return ranks.run_once(MODULES, request.param, tmp_path_factory, seconds=600.0)
