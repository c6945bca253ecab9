"""An error of one rank's own code, in which nothing is exchanged, ends the others by that error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import ending_ranks
import pytest
import torch.distributed as dist
from support import ranks
from support.ranks import Cases

from adadagrad_kernels import shared_errors as module
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


class World:
    """Two ranks of which this process is one, and their store."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 2
        self.store: Any = dist.HashStore()

    def ends(self, rank: int, error: Exception) -> Exception:
        """What a rank ends by, where it has this error inside of the context."""
        self.rank = rank
        with pytest.raises(Exception) as found, shared_errors():  # noqa: PT011
            raise error
        return found.value


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    found = World()
    monkeypatch.setattr(module, "world_size", lambda: found.size)
    monkeypatch.setattr(module, "own_rank", lambda: found.rank)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: found.store)
    yield found
    shared_errors._left = False


def lost() -> RuntimeError:
    return RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")


def test_a_message_that_is_no_text_is_told_as_far_as_it_is(world: World) -> None:
    """As of a file's name in another encoding."""
    own = FileNotFoundError("no image caf\udce9.png")
    assert world.ends(1, own) is own
    assert str(world.ends(0, lost())) == "rank 1: FileNotFoundError: no image caf\\udce9.png"


def test_a_store_that_does_not_answer_keeps_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    class Silent:
        def check(self, keys: list[str]) -> bool:
            return ended.wait(60.0)

    world.store = Silent()
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    own = lost()
    assert world.ends(0, own) is own
    ended.set()


@pytest.mark.parametrize("store", [None, object()])
def test_without_a_store_errors_are_those_of_each(world: World, store: Any) -> None:
    world.store = store
    for own in (KeyError("mine"), lost()):
        assert world.ends(0, own) is own


def test_what_a_restart_has_left_behind_is_no_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ends(1, KeyError("of the first attempt"))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    own = lost()
    assert world.ends(0, own) is own


def test_a_context_that_ends_well_takes_back_what_was_survived(world: World) -> None:
    world.ends(1, KeyError("survived"))
    with shared_errors():
        pass
    own = lost()
    assert world.ends(0, own) is own


def test_the_group_may_be_gone_before_the_context(world: World) -> None:

    def destroy_and_raise() -> None:
        world.size = 1
        raise KeyError("mine")

    world.rank = 1
    with pytest.raises(KeyError), shared_errors():
        destroy_and_raise()
    world.size = 2
    assert str(world.ends(0, lost())) == "rank 1: KeyError: 'mine'"


def test_what_only_speaks_of_a_connection_is_an_error_of_its_own(world: World) -> None:
    own = RuntimeError("Connection closed by the database under /data/gloo")
    assert world.ends(1, own) is own
    assert str(world.ends(0, lost())) == f"rank 1: {own}"
