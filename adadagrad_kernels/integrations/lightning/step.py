"""One step of all ranks: its samples, its parts, and how much of the loss each of them is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor

from adadagrad_kernels.distributed import micro_batch_cuts
from adadagrad_kernels.integrations.cutting import part_of
from adadagrad_kernels.settings import require_int


class Step:
    """A step, from its batch to its gradient.

    Args:
        trainer: that takes it.
        batch: of this rank.
        total: samples over all ranks.

    Attributes:
        share: samples of this rank.
        left: its samples in each backward pass that is to come, the next one last.
        loss: what this rank's samples add to the mean loss of all, so far.
    """

    def __init__(self, trainer: Trainer, batch: Any, total: int) -> None:
        self.batch: Any = batch
        self.total: int = total
        self.share: int = len(range(trainer.global_rank, total, trainer.world_size))
        self.left: list[int] = [self.share]
        self.loss: Tensor | None = None
        self._trainer = trainer

    @property
    def skipped(self) -> bool:
        """Whether no backward pass has run."""
        return self.loss is None

    def parts(self, batch: Any, size: int) -> Iterator[Any]:
        """Cut the batch into equally many parts on every rank, which wait in the last one alone."""
        world = self._trainer.world_size
        if self._trainer.lightning_module.automatic_optimization:
            raise ValueError(
                "automatic optimization takes one backward pass a step, so it cannot run a batch "
                "in parts; set self.automatic_optimization = False in the module"
            )
        size = require_int("size", size, at_least=1 if world == 1 else 2)
        cuts = micro_batch_cuts(self.share, self.total, world, size)
        self.left = [cut.stop - cut.start for cut in reversed(cuts)]
        alone = getattr(self._trainer.strategy, "block_backward_sync", contextlib.nullcontext)
        for place, cut in enumerate(cuts):
            to_come = len(cuts) - 1 - place
            with alone() if to_come else contextlib.nullcontext():
                yield part_of(batch, self.share, cut)
            if len(self.left) != to_come:
                raise ValueError(
                    "every part of micro_batches() takes one backward pass; call "
                    "self.manual_backward(loss) once for each"
                )

    def weigh(self, loss: Tensor) -> int:
        """Weigh the gradient of the mean loss of the next part; returns the part's samples.

        Ranks are averaged, so m of n samples weigh m W / n on each of W ranks.
        """
        if not self.left:
            raise ValueError(
                "a second backward pass in one step, whose samples nothing says. Ways out: manual "
                "optimization with AdaptiveBatch.micro_batches(batch, size); one optimizer step "
                "for each training_step"
            )
        samples = self.left.pop()
        part = loss.detach().double() * (samples / self.total)
        self.loss = part if self.loss is None else self.loss + part
        weight = samples * self._trainer.world_size / self.total
        if weight != 1.0:
            loss.register_hook(lambda gradient: gradient * weight)  # type: ignore[no-untyped-call]
        return samples

    def require_whole(self) -> None:
        """Refuse the end of a step in its middle.

        Raises:
            ValueError: with the number of passes that are missing.
        """
        if self.left:
            raise ValueError(
                f"training_step took {len(self.left)} backward passes less than micro_batches() "
                "has parts; run its loop to the end"
            )
