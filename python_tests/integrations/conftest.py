"""Worlds of two and of four ranks, which run the cases of all tests of Lightning in turn."""

from __future__ import annotations

import pytest
from support import ranks
from support.one_thread import one_thread_for_the_module  # noqa: F401 - a fixture of every test here
from support.ranks import Cases


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """What every case gave, on both ranks."""
    return ranks.run_once(("lightning_cases",), [2], tmp_path_factory)[2]


@pytest.fixture(scope="session")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """What those of ``lightning_wide_cases`` gave, on each of four ranks."""
    return ranks.run_once(("lightning_wide_cases",), [4], tmp_path_factory)[4]
