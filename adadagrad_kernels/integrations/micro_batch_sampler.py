"""Batches cut into micro-batches before they are loaded, so that a loader's work stays constant."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from adadagrad_kernels.batching import AdaptiveBatchSampler, BatchController
from adadagrad_kernels.distributed import micro_batch_cuts
from adadagrad_kernels.settings import require_int


class MicroBatchSampler(Sampler[list[int]]):
    """Draws this rank's micro-batches of each batch, equally many on every rank.

    A DataLoader over it collates, pads and prefetches micro-batches, whatever the batch grows to.
    ``coming`` says how many of them make up the next batch.

    Args:
        batches: draws the batches.
        controller: counts the samples that were trained on.
        micro: the most samples of a micro-batch on a rank.
        fewest: micro-batches of a batch at least, over all ranks, where it has enough samples:
            a source that compares micro-batches needs several.

    Raises:
        ValueError: for micro-batches of one sample on several ranks, whose shares may be unequal.
    """

    def __init__(
        self,
        batches: AdaptiveBatchSampler,
        controller: BatchController,
        micro: int,
        *,
        fewest: int = 1,
    ) -> None:
        self.batches: AdaptiveBatchSampler = batches
        self.controller: BatchController = controller
        self.micro: int = require_int("the micro-batch size", micro, at_least=1)
        self._fewest = fewest
        world, budget = batches.world_size, batches.total_samples or batches.size
        if self.micro == 1 < world and (controller.round_to % world or budget % world):
            raise ValueError(
                f"with micro-batches of 1 sample, ranks with unequal shares would have unequal "
                f"numbers of them, and wait for each other. Ways out on {world} ranks: micro-"
                f"batches of 2 samples or more; BatchController(round_to={world}) and a budget "
                f"that is a multiple of {world}, such as {budget - budget % world}"
            )

    def __iter__(self) -> Iterator[list[int]]:
        """Draws batch after batch, and gives out its parts."""
        shares = iter(self.batches)
        while True:
            before = self.batches.drawn
            share = next(shares, None)
            if share is None:
                return
            for cut in self._cuts(len(share), self.batches.drawn - before):
                yield share[cut]

    def coming(self) -> tuple[int, list[int]]:
        """The samples of the next batch over all ranks, and those of this rank's micro-batches.

        Call it once the loader has given the first of them.
        """
        total = self.batches.next_total(self.controller.samples_seen)
        share = len(range(self.batches.rank, total, self.batches.world_size))
        return total, [cut.stop - cut.start for cut in self._cuts(share, total)]

    def steps_left(self) -> int:
        """Steps to the end of the iteration at the present batch size, those in flight included."""
        in_flight = self.batches.state_dict(self.controller.samples_seen)["pending"]
        in_flight = len(in_flight) - len(self.batches.state_dict()["pending"])
        return in_flight + len(self.batches)

    def _cuts(self, share: int, total: int) -> list[slice]:
        world = self.batches.world_size
        micro = min(self.micro, max(1 if world == 1 else 2, total // self._fewest))
        return micro_batch_cuts(share, total, world, micro)
