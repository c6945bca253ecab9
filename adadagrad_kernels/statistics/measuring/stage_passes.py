"""Which micro-batch of a pipeline's stage a backward pass belongs to, where several wait."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.contents import distinct_tensors
from adadagrad_kernels.statistics.measuring.callers import stage_call
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch


class StagePasses:
    """The passes of one step of a stage, each of whose calls is a micro-batch.

    Attributes:
        counts: whether the call that runs is a micro-batch.
        running: the micro-batch whose backward pass runs, or ran last.
        divides: whether the schedule divides the gradients by the number of micro-batches when all
            are over.
    """

    def __init__(self) -> None:
        self.counts: bool = False
        self.reset()

    def reset(self) -> None:
        """Forget the step."""
        self.running: MicroBatch | None = None
        self.divides: bool = False

    def begins(
        self, micro_batches: Sequence[MicroBatch], *, is_whole: bool, keeps: bool = False
    ) -> bool:
        """Whether a call has samples; a stage also runs its module to learn shapes.

        Args:
            micro_batches: of the step so far.
            is_whole: whether the whole module is called.
            keeps: whether what layers have saved is read once more when the step is over.

        Raises:
            UnsupportedModelError: for a part of the module that is called alone, whose samples
                cannot be told from those of other micro-batches.
            ValueError: for another step of a schedule that has divided the gradients.
        """
        call = stage_call()
        self.counts = call is None or call.index is not None
        if not self.counts:
            return False
        if not is_whole:
            raise UnsupportedModelError(
                "a part of the stage's module is called alone, and which micro-batch its samples "
                "belong to is not known. Way out: call the module as a whole, once for each "
                "micro-batch, as PipelineStage does"
            )
        if call is not None:
            if call.index == 0 and any(m.reached for m in micro_batches):
                self._require_one_step(keeps)
            self.divides |= call.divides
        return True

    def _require_one_step(self, keeps: bool) -> None:
        way_out = "statistics() after every schedule.step(), with as many micro-batches as needed"
        if self.divides:
            raise ValueError(
                "the schedule took another step before statistics(), and divides the gradients of "
                f"the one before it again. Ways out: {way_out}; scale_grads=False in the schedule"
            )
        if keeps:
            raise ValueError(
                "the schedule took another step before statistics(), and receives its activations "
                "where those are that inner products need once more. Ways out: inner_products="
                f"False; {way_out}"
            )

    def follow(self, result: Any, micro_batch: MicroBatch) -> None:
        """Have a backward pass from these outputs known as the micro-batch's."""
        for output in distinct_tensors(result):
            if output.grad_fn is not None:
                output.register_hook(partial(self._note, micro_batch))  # type: ignore[no-untyped-call]

    def _note(self, micro_batch: MicroBatch, _: Tensor) -> None:
        self.running = micro_batch
        micro_batch.had_backward = True


def require_equal_sizes() -> None:
    """Refuse a step that its schedule breaks off: stages send the shape of its first micro-batch.

    The last stage raises at once. The first raises when it has sent one, which the last waits for.
    A single stage sends nothing.

    Raises:
        ValueError: with the sizes.
    """
    call = stage_call()
    if call is None or (call.inputs and call.targets):
        return
    sizes = call.inputs or call.targets
    if call.index == (1 if call.inputs else 0) and len(set(sizes)) > 1:
        raise ValueError(
            f"the micro-batches of a step have {', '.join(map(str, sizes))} samples, and the "
            "stages of a pipeline send each in the shape of the first. Way out: batches that the "
            "number of micro-batches divides; for micro-batches of a constant size "
            "BatchController(..., round_to=size), and AdaptiveBatchSampler(..., drop_last=True)"
        )
