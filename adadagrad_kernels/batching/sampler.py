"""Batches by global sample index, of a size that may change at every batch."""

from __future__ import annotations

import functools
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from adadagrad_kernels import ranks
from adadagrad_kernels.batching import sharing
from adadagrad_kernels.batching.permutation import epoch_permutation
from adadagrad_kernels.settings import require_equal, require_int, require_keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adadagrad_kernels.batching.controller import BatchController

_logger = logging.getLogger("adadagrad_kernels")

_REMEMBERED_BATCHES = 4096  # far above num_workers * prefetch_factor of any DataLoader


class _Place(NamedTuple):
    """Where the sampler stood after a batch."""

    drawn: int  # samples drawn in all, over every epoch and rank
    epoch: int
    position: int  # samples of this epoch's permutation that are used up


class AdaptiveBatchSampler(Sampler[list[int]]):
    """A batch sampler for DataLoader that asks for its batch size before every batch.

    The order of an epoch is a permutation fixed by (seed, epoch) alone, and the sampler's place
    in it is a count of samples. So no sample is repeated or dropped when the size changes, and a
    run resumes exactly with another batch size, number of workers or number of ranks.

    One iteration is one epoch with a short last batch; the next iteration is the next epoch. An
    iteration that broke off continues where it stopped. With ``total_samples``, one iteration
    runs over as many epochs as needed, batches cross epoch borders (every permutation is used up
    before the next one starts), and exactly ``total_samples`` indices are drawn.

    Ranks: all draw the same global batch, and rank r takes ids[r::world_size], so their shares
    differ by at most one sample (weigh by samples, not by ranks) and all have equally many
    batches. A tail too short to give every rank ``min_samples`` joins the batch before it.
    There is no attribute ``batch_size``, by which Accelerate would shard a second time.

    Workers: a DataLoader with workers draws ``prefetch_factor * num_workers`` batches ahead, so
    exactly that many batches after a change keep the old size, also at the start of a run, and the
    sampler stands that far ahead of training. For an exact checkpoint say what was trained on,
    ``state_dict(consumed=controller.samples_seen)``: it then holds the sizes of the batches in
    flight, and the resumed run cuts the same ones. A loop that broke off has lost those batches;
    ``rewind`` gives them back. torchdata's StatefulDataLoader takes its own snapshots, exact in the
    samples; after a resume it cuts what was in flight afresh, by the size at that time.
    To resume bit for bit, give the loader a ``generator`` of its own: each of its iterators draws
    a number, by default from torch's global generator, which would shift dropout.

    Args:
        dataset_or_size: anything with a length, or the length.
        batch_size: samples of the global batch: a number, a BatchController, or a function
            without arguments, asked before each batch (and by ``len``).
        seed: with the epoch, the key of the permutation; 0 to 2**64 - 1.
        shuffle: False draws in the order of the dataset.
        drop_last: leaves out the short last batch of an iteration, and no other: a batch size
            above the whole iteration counts as the whole iteration.
        total_samples: the sample budget over all epochs and ranks, or None.
        rank: of this process; None asks torch.distributed, or means 0 if that is not running.
        world_size: number of ranks; None asks torch.distributed, or means 1. Where it is the number
            of its processes, they compare their datasets, sizes and settings here, so each of them
            must make the sampler.
        min_samples: fewest samples of a rank in a batch; with 2, BatchNorm and variances never see
            a tail of one.

    Attributes:
        epoch: the epoch of the next sample; it counts on by itself.
        position: samples of this epoch that are used up, over all ranks.
        drawn: samples drawn since the start of the run, over all epochs and ranks.

    Raises:
        ValueError: for an empty dataset or an argument out of range; for ranks with different
            datasets, sizes or settings, or the same share; where it was made before
            torch.distributed was set up, or another sampler would share its batches out again.

    Example:
        >>> sampler = AdaptiveBatchSampler(10, lambda: 4, shuffle=False)
        >>> list(sampler)
        [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    """

    def __init__(
        self,
        dataset_or_size: Sized | int,
        batch_size: BatchController | Callable[[], int] | int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        total_samples: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        min_samples: int = 1,
    ) -> None:
        with sharing.same_settings(world_size) as settings:
            self.size: int = _length(dataset_or_size)
            self.seed: int = require_int("seed", seed, at_least=0)
            if self.seed >= 2**64:
                raise ValueError(f"seed must be below 2**64, got {seed}")
            self.shuffle = shuffle
            self.drop_last = drop_last
            self._follows_torch = rank is None and world_size is None
            self.world_size: int = require_int(
                "world_size", ranks.world_size() if world_size is None else world_size, at_least=1
            )
            self.rank: int = require_int(
                "rank", ranks.own_rank() if rank is None else rank, at_least=0
            )
            if self.rank >= self.world_size:
                raise ValueError(
                    f"rank must be below world_size {self.world_size}, got {self.rank}"
                )
            self._fewest = self.world_size * require_int("min_samples", min_samples, at_least=1)
            self.total_samples = total_samples
            if total_samples is not None:
                self.total_samples = require_int(
                    "total_samples", total_samples, at_least=self._fewest
                )
            elif self.size < self._fewest:
                raise ValueError(
                    f"a dataset of {self.size} samples cannot give {self.world_size} ranks "
                    f"{min_samples} each: take fewer ranks, or total_samples to cross epochs"
                )
            settings.update(
                rank=self.rank,
                samples=self.size,
                seed=self.seed,
                shuffle=shuffle,
                drop_last=drop_last,
                total_samples=self.total_samples or 0,
                min_samples=min_samples,
            )
            settings.update(sharing.settings_of_source(batch_size))
        self._counts = sharing.WholeCounts(batch_size, self.rank, self.world_size)
        self._requested: Callable[[], object] = (
            batch_size if callable(batch_size) else functools.partial(_size_of, batch_size)
        )
        if not callable(batch_size):
            self._request()
        self.epoch: int = 0
        self.position: int = 0
        self.drawn: int = 0
        self._pending: deque[int] = deque()
        self._permutation: tuple[int, NDArray[np.int64]] | None = None
        self._places: deque[_Place] = deque(maxlen=_REMEMBERED_BATCHES)
        self._remember(restart=True)

    def __iter__(self) -> Iterator[list[int]]:
        """Draws this rank's share of batch after batch, to the end of the epoch or budget."""
        sharing.require_not_shared_out_again(sys._getframe(1), self.world_size)
        if self._follows_torch:
            sharing.require_same_world(self.world_size)
        return self._batches()

    def _batches(self) -> Iterator[list[int]]:
        while size := self._next_batch_size():
            batch = self._draw(size)  # before it leaves, so that a snapshot points behind it
            yield batch[self.rank :: self.world_size].tolist()
        if self.total_samples is None:
            self.epoch, self.position = self.epoch + 1, 0
            self._remember()

    def __len__(self) -> int:
        """Batches left in this iteration at the present size; fewer if the size grows."""
        left = self._left() - sum(self._pending)
        full, tail = divmod(left, self._request())
        joins = self.drop_last or (full > 0 and tail < self._fewest)
        return len(self._pending) + full + (tail > 0 and not joins)

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of ``epoch``; if already in that epoch, stays where it is.

        Only needed to repeat or skip epochs, and harmless at the top of every epoch, also of a
        resumed one. With ``total_samples`` epochs follow each other and the call changes nothing.
        """
        epoch = require_int("epoch", epoch, at_least=0)
        if self.total_samples is None and epoch != self.epoch:
            self.epoch, self.position = epoch, 0
            self._pending.clear()
            self._remember(restart=True)

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Returns the place in the data, as plain JSON types.

        Args:
            consumed: samples trained on since the start of the run, over all ranks: what
                ``BatchController.samples_seen`` counts. None means all that were drawn, which
                is right without workers.

        Raises:
            ValueError: if no remembered batch ends after ``consumed`` samples.
        """
        consumed = self.drawn if consumed is None else consumed
        in_flight: deque[int] = deque()
        places = reversed(self._places)
        place = next(places)
        while place.drawn > consumed and (before := next(places, None)) is not None:
            if place.drawn > before.drawn:  # equal where one epoch ends and the next begins
                in_flight.appendleft(place.drawn - before.drawn)
            place = before
        if place.drawn != consumed:
            raise ValueError(
                f"consumed={consumed} is no border between two batches: {self.drawn} samples were "
                f"drawn, and the nearest earlier border remembered is {place.drawn}. Count whole "
                "global batches, as BatchController.samples_seen does"
            )
        return {
            "size": self.size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "world_size": self.world_size,
            "epoch": place.epoch,
            "position": place.position,
            "drawn": place.drawn,
            "pending": [*in_flight, *self._pending],
        }

    def next_total(self, consumed: int) -> int:
        """The samples, over all ranks, of the batch that follows ``consumed`` samples.

        With workers, which draw ahead, the batch that is trained on next is not the latest drawn.

        Args:
            consumed: samples trained on since the start of the run, over all ranks: what
                ``BatchController.samples_seen`` counts.

        Raises:
            ValueError: if no remembered batch begins there.
        """
        borders = [place.drawn for place in self._places]
        later = [drawn for drawn in borders if drawn > consumed]
        if consumed not in borders or not later:
            raise ValueError(
                f"no batch that was drawn begins after consumed={consumed} samples; {self.drawn} "
                "were drawn. Call it once the loader has given the batch, and count whole global "
                "batches, as BatchController.samples_seen does"
            )
        return later[0] - consumed

    def rewind(self, consumed: int) -> None:
        """Draws again what was drawn beyond ``consumed`` samples, before anything new.

        For a loop over a DataLoader with workers that broke off.

        Raises:
            ValueError: as ``state_dict``.
        """
        self.load_state_dict(self.state_dict(consumed))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state_dict``; the iteration after it starts with the next sample.

        The budget, the batch size and the number of ranks are the constructor's. On another
        number of ranks the batches in flight are cut afresh.

        Raises:
            ValueError: if keys are missing, or dataset length, seed or shuffle differ, or the
                place lies outside the data; nothing has changed then.
        """
        require_keys(type(self).__name__, state, self.state_dict())
        for name in ("size", "seed", "shuffle"):
            require_equal(type(self).__name__, name, state[name], getattr(self, name))
        epoch, position, drawn = (
            require_int(f"saved {name}", state[name], at_least=0)
            for name in ("epoch", "position", "drawn")
        )
        if position > self.size:
            raise ValueError(
                f"saved position {position} is beyond the dataset's {self.size} samples: resume "
                "with the dataset of the saved run"
            )
        if self.total_samples is not None and drawn > self.total_samples:
            raise ValueError(
                f"the saved run had drawn {drawn} samples, more than total_samples "
                f"{self.total_samples}: raise the budget to resume it"
            )
        pending = [require_int("saved pending", size, at_least=1) for size in state["pending"]]
        self.epoch, self.position, self.drawn = epoch, position, drawn
        self._pending = deque(pending if state["world_size"] == self.world_size else ())
        self._remember(restart=True)

    def _request(self) -> int:
        size = require_int("batch_size", self._requested(), at_least=1)
        if size < self._fewest:
            raise ValueError(
                f"batch_size is {size}, too few for {self._fewest // self.world_size} on each of "
                f"{self.world_size} ranks: accepted are {self._fewest} samples or more"
            )
        return min(size, self.total_samples or self.size)

    def _left(self) -> int:
        if self.total_samples is not None:
            return self.total_samples - self.drawn
        return self.size - self.position

    def _next_batch_size(self) -> int:
        left = self._left()
        if left == 0:
            return 0
        if left < self._fewest and not self.drop_last:
            # Batches are cut so that this happens only after a resume on more ranks.
            text = "left out %d samples, too few for %d ranks; resume on fewer ranks to use them"
            _logger.warning(text, left, self.world_size)
            return 0
        if self._pending:
            return min(self._pending.popleft(), left)
        first = self._places[1].drawn - self._places[0].drawn if len(self._places) > 1 else 0
        self._counts.look(first)
        size = self._request()
        if self.drop_last:
            return size if size <= left else 0
        return left if left - size < self._fewest else size

    def _draw(self, size: int) -> NDArray[np.int64]:
        parts = []
        missing = size
        while missing:
            if self.position == self.size:
                self.epoch, self.position = self.epoch + 1, 0
            part = self._order()[self.position : self.position + missing]
            parts.append(part)
            self.position += len(part)
            missing -= len(part)
        self.drawn += size
        self._remember()
        return np.concatenate(parts)

    def _order(self) -> NDArray[np.int64]:
        if self._permutation is None or self._permutation[0] != self.epoch:
            order = (
                epoch_permutation(self.size, self.seed, self.epoch)
                if self.shuffle
                else np.arange(self.size)
            )
            self._permutation = (self.epoch, order)
        return self._permutation[1]

    def _remember(self, *, restart: bool = False) -> None:
        if restart:
            self._places.clear()
            self._counts.begin()
        self._places.append(_Place(self.drawn, self.epoch, self.position))


def _length(dataset_or_size: Sized | int) -> int:
    try:
        size = len(dataset_or_size)  # type: ignore[arg-type]
    except TypeError:
        return require_int("dataset_or_size, where it has no length,", dataset_or_size, at_least=1)
    if size == 0:
        raise ValueError("the dataset has 0 samples; accepted is at least one: check how it loads")
    return size


def _size_of(batch_size: BatchController | int) -> object:
    """Of now; by a function of this file, so that a sampler can be pickled."""
    return getattr(batch_size, "batch_size", batch_size)
