"""What layers call in a forward pass: samples are counted, and the backward pass is awaited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.memory import is_out_of_memory
from adadagrad_kernels.shards import ShardedParameters
from adadagrad_kernels.statistics.measuring.backward_pass import BackwardPass
from adadagrad_kernels.statistics.measuring.callers import require_known_wrapper, require_no_stage
from adadagrad_kernels.statistics.measuring.graph_node import listen, replace_gradient
from adadagrad_kernels.statistics.measuring.rows import Rows
from adadagrad_kernels.statistics.measuring.samples import (
    no_sample_rows_message,
    require_own_rows,
    require_samples,
)
from adadagrad_kernels.statistics.measuring.stand_ins import StandIns
from adadagrad_kernels.statistics.measuring.step import Step
from adadagrad_kernels.statistics.measuring.together import Together
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Use
from adadagrad_kernels.statistics.measuring.verify import in_backward


class Recorder:
    """Follows the forward passes of a step; the layers call it.

    Attributes:
        step: in the making.
        backward: takes the gradients.
        shadow: whether autograd computes everything and the layers only listen.
    """

    def __init__(self, step: Step, *, shadow: bool) -> None:
        self.step = step
        self.backward = BackwardPass(step)
        self.shadow = shadow

    def share(self, together: Together, parameters: ShardedParameters) -> None:
        """Measure a model whose parameters these ranks share, each of which it holds a part of."""
        step = self.step
        step.together = together
        step.stand_ins = StandIns(parameters, self.backward.note_gradient)
        step.copies = parameters.same_samples
        # Autograd knows how to add up what a plan has shared out.
        self.shadow |= parameters.is_planned

    @property
    def measures(self) -> bool:
        """Whether layers called now are measured."""
        step = self.step
        if step.stage is not None and in_backward():
            # A checkpoint runs them as they ran in the forward pass, which may be one for shapes.
            return step.stage.running is not None
        return step.gate.measures

    def begin_call(self, model: nn.Module, forward: Any, args: Any, kwargs: Any) -> bool:
        """Ask the model of its call, if that is new; whether there are samples to measure."""
        step = self.step
        require_known_wrapper("layer_statistics", pooled=step.pooled)
        if step.stage is None:
            require_no_stage("layer_statistics")
        elif not step.stage.begins(
            step.micro_batches, is_whole=model is step.model, keeps=step.keeps
        ):
            return False
        try:
            step.open(is_call=True)
        except Exception:
            if step.together is not None:
                step.together.meet(failed=True)  # as the others do, who go on to ask
            raise
        with step.gate.paused():
            reply = step.call.begin(
                model, forward, args, kwargs, whole=step.model, together=step.together
            )
            first = len(step.micro_batches) == 1
            # A sample by itself would be run by this rank alone.
            if step.together is None:
                step.micro_batches[-1].comparison.begin(reply, first=first)
        empty = step.call.samples == 0
        if empty and step.micro_batches[-1].samples is None:
            step.micro_batches[-1].samples = 0
        return not empty

    def count_call(self, use: Use) -> bool:
        """Count a call of a layer; whether it is to be measured."""
        step = self.step
        grad_enabled = torch.is_grad_enabled()
        use.copies = step.copies
        if in_backward():
            # A checkpoint runs the layer again, which was counted at its first call.
            use.micro_batch = step.running
            return grad_enabled and use.micro_batch is not None
        if grad_enabled:
            use.micro_batch = step.open()
            kinds = {part.value.device.type for part in use.parts}
            use.micro_batch.autocast |= any(map(torch.is_autocast_enabled, kinds))
            step.with_grad.add(use.layer)
        else:
            step.without_grad[use.layer] = use.parts
        if step.micro_batches:
            step.micro_batches[-1].count(use)
        return grad_enabled

    def samples_of(self, use: Use, rows: int, kind: Rows = Rows.UNKNOWN) -> int:
        """The samples of the micro-batch, of which a layer has seen ``rows``."""
        samples = self.samples_in(use, rows)
        require_own_rows(use.layer, rows, samples, kind)
        if kind is not Rows.SHARED:
            require_samples(use.layer, rows, samples, self.step.call.samples)
        return samples

    def samples_in(self, use: Use, rows: int) -> int:
        """The samples of the micro-batch, where what has ``rows`` need not have them."""
        if not use.micro_batch.samples:
            use.micro_batch.samples = self.step.call.samples or rows
        return int(use.micro_batch.samples)

    def attach(self, use: LayerUse, output: Tensor, saved: Sequence[Tensor]) -> Tensor:
        """The output of a layer, with the use behind it."""
        step = self.step
        given = saved[0]
        if use.weight is None:
            # Its own backward pass would not need the input either: it may be changed in place.
            saved = [given.detach().new_empty(()).expand(given.shape)]
        if given.dim() < use.least_dimensions:
            raise ValueError(
                f"{use.layer} has an input of shape {tuple(given.shape)}, without a dimension "
                "for the samples; pass a batch, [samples, ...]"
            )
        rows, kind = (
            len(given),
            step.call.rows(use.layer, step.call.next_call_index(use.layer)),
        )
        # Indices of positions, which all samples share.
        if kind is Rows.UNKNOWN and given.dim() == 1 and step.call.samples not in (None, rows):
            kind = Rows.SHARED
        if use.folds and kind in (Rows.MERGED, Rows.SECOND):
            samples = self.samples_in(use, rows)
            rows = use.lay_out(kind, given, samples)
        samples = self.samples_of(use, rows, kind)
        use.shared = kind is Rows.SHARED or rows != samples
        if use.shared and rows != 1 and not use.folds:
            raise ValueError(no_sample_rows_message(use.layer, rows))
        use.output = getattr(output, "placements", None)
        if not self.shadow:
            output = replace_gradient(self.backward.replace, use, output, saved)
        else:
            self.observe(use, [output], saved)
        if use.shared and samples > 1:
            use.micro_batch.shared.add(use, output)
        return output

    def note_result(self, result: Any) -> None:
        """Take the model's result, from which the graph is walked to shared values."""
        step = self.step
        if step.micro_batches and (step.stage is None or step.stage.counts):
            micro_batch = step.micro_batches[-1]
            micro_batch.comparison.note(result)
            micro_batch.shared.search(result, micro_batch.samples or 1)
            if step.stage is not None:
                step.stage.follow(result, micro_batch)

    def observe(self, use: Use, outputs: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
        """Have a use listen to the gradients of its outputs."""
        use.micro_batch.shared.note(outputs)
        listen(self.backward.observe, use, outputs, saved)

    def keep(self, error: Exception) -> None:
        """Keep an error of the forward pass where other ranks would wait for this one's gradients.

        The step goes on unmeasured.

        Raises:
            Exception: the error itself, of a process alone; memory that has run out.
        """
        step = self.step
        if not step.pooled or is_out_of_memory(error):
            raise error
        step.problems.add_first(error)
        step.gate.fail()

    def fail_together(self) -> None:
        """Tell the other ranks, once, that this one measures no more of the step."""
        step = self.step
        if step.together is not None and step.gate.failed and not step.together.failed:
            step.together.meet(failed=True)
