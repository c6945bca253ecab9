"""Small steps, on one thread, and a run to compare others with."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.one_thread import one_thread_for_the_module  # noqa: F401 - a fixture of every test here
from support.train_runs import train


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    out = tmp_path_factory.mktemp("reference")
    assert train(out) == 0
    return out
