"""Worlds of two and of four processes, each of which runs the cases of all tests in turn."""

from __future__ import annotations

import pytest
from support import ranks
from support.ranks import Cases

#: Whose last case leaves a group that has timed out.
MODULES = (
    "refused_cases",
    "pooled_cases",
    "selected_cases",
    "probe_cases",
    "estimated_cases",
    "trained_cases",
    "local_cases",
    "sharded_cases",
    "half_precision_cases",
    "checkpoint_cases",
    "planned_cases",
    "pipeline_cases",
    "failing_pipelines",
    "failing_shards",
    "failing_cases",
)


WORLDS = (2, 4)


@pytest.fixture(scope="session", params=WORLDS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """What every case gave, on every rank."""
    return ranks.run_once(MODULES, WORLDS, tmp_path_factory)[request.param]
