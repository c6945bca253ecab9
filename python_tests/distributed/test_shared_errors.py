"""An error of one rank's own code, in which nothing is exchanged, ends the others by that error."""

from __future__ import annotations

import ending_ranks
import pytest
from support import ranks
from support.ranks import Cases

from adadagrad_kernels.distributed import shared_errors

#: By case: the error of the last rank, and of the others, whose message names that rank.
ENDS = {
    "a_data_set": ("FileNotFoundError", "RuntimeError", "FileNotFoundError: no image number 16"),
    "a_data_set_and_its_loader_workers": (
        "FileNotFoundError",
        "RuntimeError",
        "FileNotFoundError: Caught FileNotFoundError in DataLoader worker process 0",
    ),
    "between_micro_batches_of_shards": ("DataFormatError", "DataFormatError", "line 7 has four"),
    "losses_of_shards": ("DataFormatError", "DataFormatError", "line 7 has four"),
    "a_loop_of_another_source": ("DataFormatError", "DataFormatError", "line 7 has four"),
    "contexts_in_each_other": ("FileNotFoundError", "RuntimeError", "no image number 16"),
}
BESIDES = {"after_an_error_that_was_survived"}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.nightly)])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """What every case gave, on every rank."""
    world = request.param
    found = ranks.run_once(("ending_ranks",), (world,), tmp_path_factory, apart=True)
    cases: Cases = found[world]
    return cases


@pytest.mark.parametrize("case", ENDS)
def test_the_others_end_by_its_error(told: Cases, case: str) -> None:
    own, others, words = ENDS[case]
    *of_others, last = told[case]
    assert last.error == own
    for of_rank in of_others:
        assert of_rank.error == others, of_rank.trace
        assert of_rank.message.startswith(f"rank {len(of_others)}: "), of_rank.trace
        assert words in of_rank.message, of_rank.trace


def test_an_error_that_was_survived_is_no_reason(told: Cases) -> None:
    *of_others, last = told["after_an_error_that_was_survived"]
    assert last == ranks.ENDED
    for of_rank in of_others:
        assert of_rank.error
        assert "survived" not in of_rank.message, of_rank.trace


def test_every_case_is_asserted() -> None:
    assert {case.__name__ for case in ending_ranks.CASES} == ENDS.keys() | BESIDES


def test_a_process_alone_raises_as_ever() -> None:
    with pytest.raises(KeyError, match="own"), shared_errors():
        raise KeyError("own")
