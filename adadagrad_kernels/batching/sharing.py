"""Checks that several processes share each batch exactly once, with the same settings."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, SupportsIndex

from adadagrad_kernels import ranks

if TYPE_CHECKING:
    from adadagrad_kernels.statistics import GradientStatistics

#: The module whose samplers share whole batches out over processes.
_ACCELERATE = "accelerate.data_loader"
#: Of a controller: what its next sizes follow from, beside its criterion and what it measures.
_OF_A_CONTROLLER = (
    *("batch_size", "max_batch_size", "round_to", "test_interval", "growth_cap", "allow_shrink"),
    *("hysteresis", "cooldown", "samples_seen", "steps"),
)
#: What the ranks compare of their samplers.
_COMPARED = (
    *("rank", "samples", "seed", "shuffle", "drop_last", "total_samples", "min_samples"),
    *_OF_A_CONTROLLER,
    "criterion",
)


@contextlib.contextmanager
def same_settings(world_size: int | None) -> Iterator[dict[str, float | str]]:
    """Refuse ranks with different datasets, sizes or settings; every rank must enter this.

    The body puts its settings into the dictionary. An error of the body on one rank is raised on
    all, so that none waits for a rank that has no sampler.

    Args:
        world_size: number of ranks that share each batch, where it was given: only the processes of
            a whole world compare.

    Raises:
        ValueError: if a setting differs, naming it, or if two ranks draw the same share.
    """
    settings: dict[str, float | str] = dict.fromkeys(_COMPARED, 0.0)
    if ranks.world_size() == 1 or world_size not in (None, ranks.world_size()):
        yield settings
        return
    error: Exception | None = None
    try:
        yield settings
    except Exception as problem:
        error = problem
    everyone = ranks.Ranks()
    rows = everyone.gather([_number(settings[key]) for key in _COMPARED], everyone.device, error)
    shares, *columns = zip(*rows, strict=True)
    if len(set(shares)) < len(rows):
        raise ValueError(
            f"the ranks draw the same samples: rank is {_listed(shares)}. Way out: leave rank= and "
            "world_size= out, or pass every process's own"
        )
    for name, values in zip(_COMPARED[1:], columns, strict=True):
        if len(set(values)) > 1:
            own = settings[name]
            said = f"{own or 'none'} on this one" if isinstance(own, str) else _listed(values)
            raise ValueError(
                f"the ranks have different samplers: {name} is {said}. Way out: pass the same "
                "dataset and settings on every rank; each rank draws its own share of every batch"
            )


def settings_of_source(source: object) -> dict[str, float | str]:
    """Of what says the sizes: a controller or a number; a function has none."""
    if callable(source):
        return {"criterion": ""}
    if isinstance(source, SupportsIndex):
        return {"criterion": "", "batch_size": float(source.__index__())}
    found: dict[str, float | str] = {
        name: float(getattr(source, name, None) or 0.0) for name in _OF_A_CONTROLLER
    }
    # By the text that a resumed run must have again; one with an address is no process's but one's.
    saved = str(source.state_dict()["criterion"] or "") if hasattr(source, "state_dict") else ""
    return {**found, "criterion": "" if " at 0x" in saved else saved}


def _number(setting: float | str) -> float:
    return float(zlib.crc32(setting.encode()) if isinstance(setting, str) else setting)


def _listed(values: Sequence[float]) -> str:
    return f"{', '.join(f'{value:g}' for value in values)} on rank 0 to {len(values) - 1}"


def require_same_world(world_size: int) -> None:
    """Refuse a sampler made for another number of processes than now run.

    Raises:
        ValueError: if the numbers differ; gives both.
    """
    if ranks.world_size() != world_size:
        raise ValueError(
            f"the sampler was made for {world_size} ranks, but torch.distributed now runs with "
            f"{ranks.world_size()}: ranks would draw the same samples. Way out: make it after "
            "init_process_group(), or pass rank= and world_size="
        )


def require_not_shared_out_again(caller: FrameType | None, world_size: int) -> None:
    """Refuse a sampler on top of this one that gives each process only some of the batches.

    Args:
        caller: the frame that iterates.
        world_size: number of ranks that already share every batch.

    Raises:
        ValueError: if Accelerate's sampler iterates.
    """
    if caller is None or caller.f_globals.get("__name__") != _ACCELERATE:
        return
    shards = getattr(caller.f_locals.get("self"), "num_processes", 1)
    if shards > 1:
        lost = "each of which already has its share, so samples would be lost"
        grown = f"so a step would have {shards} times the size that was decided"
        raise ValueError(
            f"Accelerate shares whole batches out over {shards} processes, "
            f"{lost if world_size > 1 else grown}. Way out: do not pass the DataLoader to "
            "prepare(), but model and optimizer alone; the sampler gives every rank its share"
        )


def require_whole_step(statistics: GradientStatistics, samples: int, *, decides: bool) -> None:
    """Refuse the statistics or the count of one process, where several train together.

    Args:
        statistics: of a step.
        samples: how many a controller counts for it.
        decides: whether a size comes from the statistics.

    Raises:
        ValueError: for statistics that decide and are of one rank, and for the samples of one rank
            beside statistics of all.
    """
    agreement = statistics.agreement
    if agreement is None:
        return
    if decides:
        ranks.require_all_ranks(agreement, "a size")
    if agreement.is_whole and samples != statistics.batch_size:
        raise ValueError(
            f"samples is {samples}, but the statistics are of the {statistics.batch_size} "
            "samples of all ranks; pass those of the whole step, not of this rank, or leave "
            "samples out"
        )


class WholeCounts:
    """Checks, at a controller's first count, that it counts the samples of all ranks.

    Args:
        counter: the source of the batch size; a controller has ``samples_seen``.
        rank: of this process.
        world_size: number of ranks.
    """

    def __init__(self, counter: object, rank: int, world_size: int) -> None:
        self._counter = counter if hasattr(counter, "samples_seen") and world_size > 1 else None
        self._rank, self._world_size = rank, world_size
        self.begin()

    def begin(self) -> None:
        """Start over: the next batch is the first."""
        self._before: int | None = None
        self._waits = self._counter is not None

    def look(self, drawn: int) -> None:
        """Call before a batch is drawn, with the size of the first one or 0.

        Raises:
            ValueError: if only this rank's share was counted.
        """
        if not self._waits:
            return
        seen = int(getattr(self._counter, "samples_seen", 0))
        if self._before is None:
            self._before = seen
        counted = seen - self._before
        self._waits = not counted
        if counted == len(range(self._rank, drawn, self._world_size)) != drawn:
            raise ValueError(
                f"the controller has counted {counted} samples of a batch of {drawn}, only this "
                "rank's share. Way out: count those of all ranks, as "
                "controller.step(controller.batch_size) does, or update() with the pooled record"
            )
