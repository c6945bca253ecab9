"""Under every trainer an error of one rank's data ends the other ranks by that error."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

import ending_trainers
from support import ranks
from support.ranks import Cases

#: Of what they share `distributed/test_shared_errors.py` is the test by day.
pytestmark = pytest.mark.nightly

WORLDS = (2,)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """What every case gave, on both ranks."""
    found: Cases = ranks.run_once(("ending_trainers",), WORLDS, tmp_path_factory, apart=True)[2]
    return found


@pytest.mark.parametrize("case", [case.__name__ for case in ending_trainers.CASES])
def test_the_others_end_by_its_error(told: Cases, case: str) -> None:
    other, last = told[case]
    assert last.error == "FileNotFoundError", last.trace
    assert other.error == "RuntimeError", other.trace
    assert other.message.startswith("rank 1: FileNotFoundError: sample "), other.trace
