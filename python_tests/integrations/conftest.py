"""A world of two ranks, which runs the cases of all tests of Lightning in turn."""

from __future__ import annotations

import pytest
from support import ranks
from support.one_thread import one_thread_for_the_module  # noqa: F401 - a fixture of every test here
from support.ranks import Told


@pytest.fixture(scope="session")
def told() -> dict[str, list[Told]]:
    """What every case gave, on both ranks."""
    return ranks.run(("lightning_cases",), 2)
