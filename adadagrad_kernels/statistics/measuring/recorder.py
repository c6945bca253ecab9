"""Follows the forward and backward passes of a step: the samples and gradients of every use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.memory import is_out_of_memory
from adadagrad_kernels.shards import ShardedParameters
from adadagrad_kernels.statistics.measuring.arrivals import Arrivals
from adadagrad_kernels.statistics.measuring.callers import require_known_caller
from adadagrad_kernels.statistics.measuring.graph_node import listen, replace_gradient
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.model_call import ModelCall
from adadagrad_kernels.statistics.measuring.rows import Rows
from adadagrad_kernels.statistics.measuring.samples import (
    no_sample_rows_message,
    require_own_rows,
    require_samples,
    unknown_shares_message,
)
from adadagrad_kernels.statistics.measuring.stand_ins import StandIns
from adadagrad_kernels.statistics.measuring.tensor_parallel import (
    gradient_here,
    local_uses,
    shared_addends_message,
)
from adadagrad_kernels.statistics.measuring.together import Together
from adadagrad_kernels.statistics.measuring.turns import Turns
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Part, Use
from adadagrad_kernels.statistics.measuring.verify import (
    NamedParameters,
    changed_gradient_message,
    changed_input_message,
    dropped_gradient_message,
    foreign_gradient_message,
    foreign_gradients,
    in_backward,
    late_hook_message,
    partial_gradients_message,
    require_clear,
    require_grad_mode,
    require_kept,
    require_known,
    second_backward_message,
)
from adadagrad_kernels.statistics.supported_models import require_per_sample_gradients


class Recorder:
    """Follows the micro-batches of a step; the layers call it in both passes.

    Attributes:
        model: the module in training.
        shadow: whether autograd computes everything and the layers only listen.
        pooled: whether other ranks are in the step too, which must not wait for this one: errors
            of the forward pass are kept until ``statistics``.
        reduced: whether a wrapper writes to gradients once they are there.
        together: the ranks that gather the model's parameters, or None.
        stand_ins: for its sharded parameters, or None.
        turns: says which steps are measured.
        micro_batches: those of the step so far.
        call: the call of the model that runs.
        arrivals: gradients on their way into ``.grad``.
        problems: errors that a backward pass must not raise, in the order in which they came.
    """

    def __init__(
        self, model: nn.Module, *, variance: bool, inner_products: bool, shadow: bool
    ) -> None:
        self.model = model
        self.shadow = shadow
        self.pooled = self.reduced = False
        self.together: Together | None = None
        self.stand_ins: StandIns | None = None
        self._copies = 1
        self.turns = Turns()
        self.call = ModelCall()
        self.arrivals = Arrivals()
        self._variance = variance
        self._inner_products = inner_products
        # The parameters themselves, so that no other one gets the identity of one that is gone.
        self._known = {id(p): p for p in model.parameters() if p.requires_grad}
        self.reset()

    def share(self, together: Together, parameters: ShardedParameters) -> None:
        """Measure a model whose parameters these ranks share, each of which it holds a part of."""
        self.together = together
        self.stand_ins = StandIns(parameters, self.note_gradient)
        self._copies = parameters.same_samples
        # Autograd knows how to add up what a plan has shared out.
        self.shadow |= parameters.is_planned

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The model's own parameters by name, whatever stands in for them."""
        if self.stand_ins is not None:
            return list(self.stand_ins.parameters.items())
        return list(self.model.named_parameters())

    def reset(self) -> None:
        """Forget the step."""
        self.turns.forget_failure()
        if self.together is not None:
            self.together.failed = False
        for micro_batch in getattr(self, "micro_batches", []):
            micro_batch.forget()
        self.micro_batches: list[MicroBatch] = []
        self.problems: list[Exception] = []
        self.call.forget()
        self._with_grad: set[str] = set()
        self._without_grad: dict[str, list[Part]] = {}
        self.arrivals.reset()

    # The forward pass.

    def begin_call(self, model: nn.Module, forward: Any, args: Any, kwargs: Any) -> bool:
        """Ask the model of its call, if that is new; whether there are samples to measure."""
        require_known_caller("layer_statistics", pooled=self.pooled)
        try:
            self._open()
        except Exception:
            if self.together is not None:
                self.together.meet(failed=True)  # as the others do, who go on to ask
            raise
        with self.turns.paused():
            reply = self.call.begin(
                model, forward, args, kwargs, whole=self.model, together=self.together
            )
            first = len(self.micro_batches) == 1
            # A sample by itself would be run by this rank alone.
            if self.together is None:
                self.micro_batches[-1].comparison.begin(reply, first=first)
        empty = self.call.samples == 0
        if empty and self.micro_batches[-1].samples is None:
            self.micro_batches[-1].samples = 0
        return not empty

    def count_call(self, use: Use) -> bool:
        """Count a call of a layer; whether it is to be measured."""
        grad_enabled = torch.is_grad_enabled()
        use.copies = self._copies
        if in_backward():
            # A checkpoint runs the layer again, which was counted at its first call.
            use.micro_batch = self.micro_batches[-1] if self.micro_batches else None
            return grad_enabled and use.micro_batch is not None
        if grad_enabled:
            use.micro_batch = self._open()
            kinds = {part.value.device.type for part in use.parts}
            use.micro_batch.autocast |= any(map(torch.is_autocast_enabled, kinds))
            self._with_grad.add(use.layer)
        else:
            self._without_grad[use.layer] = use.parts
        if self.micro_batches:
            self.micro_batches[-1].count(use)
        return grad_enabled

    def samples_of(self, use: Use, rows: int, kind: Rows = Rows.UNKNOWN) -> int:
        """The samples of the micro-batch, of which a layer has seen ``rows``."""
        samples = self.samples_in(use, rows)
        require_own_rows(use.layer, rows, samples, kind)
        if kind is not Rows.SHARED:
            require_samples(use.layer, rows, samples, self.call.samples)
        return samples

    def samples_in(self, use: Use, rows: int) -> int:
        """The samples of the micro-batch, where what has ``rows`` need not have them."""
        if not use.micro_batch.samples:
            use.micro_batch.samples = self.call.samples or rows
        return int(use.micro_batch.samples)

    def attach(self, use: LayerUse, output: Tensor, saved: Sequence[Tensor]) -> Tensor:
        """The output of a layer, with the use behind it."""
        given = saved[0]
        if use.weight is None:
            # Its own backward pass would not need the input either: it may be changed in place.
            saved = [given.detach().new_empty(()).expand(given.shape)]
        if given.dim() < use.least_dimensions:
            raise ValueError(
                f"{use.layer} has an input of shape {tuple(given.shape)}, without a dimension "
                "for the samples; pass a batch, [samples, ...]"
            )
        rows, kind = len(given), self.call.rows(use.layer, self.call.next_call_index(use.layer))
        # Indices of positions, which all samples share.
        if kind is Rows.UNKNOWN and given.dim() == 1 and self.call.samples not in (None, rows):
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
            output = replace_gradient(self._replace, use, output, saved)
        else:
            self.observe(use, [output], saved)
        if use.shared and samples > 1:
            use.micro_batch.shared.add(use, output)
        return output

    def note_result(self, result: Any) -> None:
        """Take the model's result, from which the graph is walked to shared values."""
        if self.micro_batches:
            micro_batch = self.micro_batches[-1]
            micro_batch.comparison.note(result)
            micro_batch.shared.search(result, micro_batch.samples or 1)

    def observe(self, use: Use, outputs: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
        """Have a use listen to the gradients of its outputs."""
        use.micro_batch.shared.note(outputs)
        listen(self._observe, use, outputs, saved)

    # The backward pass.

    def _replace(self, use: LayerUse) -> tuple[Tensor | None, Tensor | None]:
        # Of a shared value the whole gradient counts, also what no sample contributed.
        whole = use.as_one().gradients() if use.shared else None
        if not self._is_measurable(use):
            return whole or use.gradients()
        micro_batch = use.micro_batch
        if micro_batch.shares(use):
            micro_batch.pending.append(use)
            return whole or use.gradients()
        self._require_first(use)
        gradients = whole or use.restored(micro_batch.measure(use))
        if whole is not None:
            micro_batch.measure(use)
        for part, gradient in zip((use.weight, use.bias), gradients, strict=True):
            if part is not None and gradient is not None and part.is_whole:
                self.arrivals.expect(part.parameter, gradient)
        use.release()
        return gradients

    def _observe(self, use: Use) -> None:
        if isinstance(use, LayerUse) and use.output is not None:
            self._observe_parts(use)
        elif self._is_measurable(use):
            self._observe_whole(use)

    def _observe_parts(self, use: LayerUse) -> None:
        try:
            uses = local_uses(use)
        except UnsupportedModelError as error:
            self.problems.append(error)
            return
        if use.shared:
            self._keep_problem(unknown_shares_message(use.layer), UnsupportedModelError)
            return
        shared = use.micro_batch.shares(use)
        if shared and any(each.addends is not None for each in uses):
            self._keep_problem(shared_addends_message(use.layer), UnsupportedModelError)
            return
        for each in uses:
            if not self._is_measurable(each):
                continue
            if any(part.value.numel() for part in each.parts):
                self._observe_whole(each)
            else:
                each.micro_batch.note_nothing(each)  # there are more ranks than rows
        use.release()

    def _observe_whole(self, use: Use) -> None:
        micro_batch = use.micro_batch
        if use.addends is not None:
            # While the other ranks are here too.
            micro_batch.measure_together(use)
            use.release()
        elif isinstance(use, LayerUse) and not micro_batch.shares(use):
            self._require_first(use)
            gradients = use.restored(micro_batch.measure(use))
            for part, gradient in zip((use.weight, use.bias), gradients, strict=True):
                if part is not None and gradient is not None:
                    micro_batch.sums[part.key] = gradient
            use.release()
        elif use not in micro_batch.pending:
            micro_batch.pending.append(use)

    def _is_measurable(self, use: Use) -> bool:
        """Whether a gradient that came back can be measured."""
        if use.micro_batch not in self.micro_batches:
            return False  # forgotten by reset()
        use.micro_batch.had_backward = True
        if use.arrivals > 1:
            self._keep_problem(second_backward_message(use.layer))
            return False
        if use.changed_in_place:
            self._keep_problem(changed_input_message(use.layer))
            return False
        use.arrange()
        if use.shared and not use.micro_batch.shared.assign_shares(
            use, use.micro_batch.samples or 1
        ):
            self._keep_problem(unknown_shares_message(use.layer), UnsupportedModelError)
            return False
        return True

    def _require_first(self, use: Use) -> None:
        if any(part.key in use.micro_batch.parts for part in use.parts):
            self._keep_problem(partial_gradients_message(use.layer))

    def note_gradient(self, parameter: nn.Parameter, name: str, grad: Tensor) -> None:
        """See the whole gradient of a parameter on its way into ``.grad``."""
        grad = gradient_here(parameter, grad)
        self.turns.note_backward()
        micro_batch = self.micro_batches[-1] if self.micro_batches else None
        if micro_batch is not None:
            micro_batch.had_backward = True
            if not micro_batch.reached and len(self.micro_batches) == 1:
                self._require_clear()
            micro_batch.reached.add(id(parameter))
            if self.pooled and (self._variance or micro_batch.comparison.waits):
                before = micro_batch.own.get(id(parameter))
                own = grad.detach().clone() if before is None else before + grad
                micro_batch.own[id(parameter)] = own
            earlier = self.micro_batches[:-1] if self.together is None else []
            if parameter.grad is None and any(id(parameter) in m.reached for m in earlier):
                self._keep_problem(dropped_gradient_message(f"'{name}'"))
            self.arrivals.note_at_the_end(self._known.values(), reduced=self.reduced)
        as_expected = self.arrivals.matches_expected(parameter, grad)
        if as_expected is None:
            if micro_batch is not None:
                before = micro_batch.arrived.get(id(parameter))
                micro_batch.arrived[id(parameter)] = grad if before is None else before + grad
        elif not as_expected:
            self._keep_problem(foreign_gradient_message(name))

    def _require_clear(self) -> None:
        """As the first gradient arrives: until then those of an earlier step may be set to zero."""
        if all(parameter.grad is None for parameter in self._known.values()):
            return
        try:
            require_clear(self.named_parameters())
        except ValueError as error:
            self.problems.append(error)

    def note_after_hooks(self, name: str, parameter: Tensor) -> None:
        """See ``.grad`` behind the hooks that may change it, and ahead of a wrapper."""
        if self.reduced and not self.arrivals.is_as_marked(parameter):
            self._keep_problem(changed_gradient_message(name))

    def note_hook(self, name: str) -> None:
        """Note a hook registered after the forward pass, which sees the gradient last."""
        if self.micro_batches:
            self._keep_problem(late_hook_message(name))

    def keep(self, error: Exception) -> None:
        """Keep an error of the forward pass where other ranks would wait for this one's gradients.

        The step goes on unmeasured.

        Raises:
            Exception: the error itself, of a process alone; memory that has run out.
        """
        if not self.pooled or is_out_of_memory(error):
            raise error
        self.problems.insert(0, error)
        self.turns.fail()

    def fail_together(self) -> None:
        """Tell the other ranks, once, that this one measures no more of the step."""
        if self.together is not None and self.turns.failed and not self.together.failed:
            self.together.meet(failed=True)

    def _keep_problem(self, message: str, kind: type[Exception] = ValueError) -> None:
        """Keep an error for the end: raised in a backward pass it would leave half a gradient."""
        self.problems.append(kind(message))

    # Between the passes.

    def _open(self) -> MicroBatch:
        """The micro-batch of a forward pass; a new one after a backward pass."""
        if self.micro_batches and not self.micro_batches[-1].had_backward:
            return self.micro_batches[-1]
        require_per_sample_gradients(self.model, by_layers=True)
        parameters = self.named_parameters()
        require_known(parameters, self._known)
        self.forget_unused()
        self.call.forget()
        if self.micro_batches:
            self.close(parameters, followed=True)
            self.arrivals.require_unchanged(parameters, kept=self.together is not None)
        self.micro_batches.append(MicroBatch(self._variance, self._inner_products))
        return self.micro_batches[-1]

    def forget_unused(self) -> None:
        """Drop a last micro-batch whose gradient was taken for the inputs alone, or never."""
        if self.micro_batches and not self.micro_batches[-1].reached:
            self.micro_batches.pop().forget()
            self.arrivals.forget()

    @torch.no_grad()
    def close(self, parameters: NamedParameters, *, followed: bool) -> None:
        """Finish the last micro-batch.

        Args:
            parameters: of the model, by name.
            followed: whether another one comes, so that its gradient must be kept for the variance.
        """
        micro_batch = self.micro_batches[-1]
        micro_batch.finish()
        micro_batch.shared.forget()
        if followed:
            norms = [each.squared for each in micro_batch.norms]
            require_kept(parameters, micro_batch.reached, norms)
        self.problems += foreign_gradients(micro_batch, parameters)
        micro_batch.arrived, micro_batch.sums = {}, {}
        self._judge(micro_batch)
        if followed and self._variance and not self.pooled:
            micro_batch.cumulative = {
                id(p): p.grad.detach().clone()
                for _, p in parameters
                if p.requires_grad and p.grad is not None
            }

    def _judge(self, micro_batch: MicroBatch) -> None:
        """Compare the norms with those of one sample by itself."""
        if self.problems:
            return
        with self.turns.paused():
            try:
                doubt = micro_batch.comparison.judge(micro_batch.norms, self._gradient(micro_batch))
            except UnsupportedModelError as error:
                self.problems.append(error)
                return
        if doubt is not None:
            self.call.doubt(self.model, doubt)

    def _gradient(self, micro_batch: MicroBatch) -> dict[int, Tensor]:
        """That of a first micro-batch, by the identity of parameters."""
        if self.pooled:
            return micro_batch.own
        return {key: p.grad for key, p in self._known.items() if p.grad is not None}

    def require_grad_mode(self) -> None:
        """Refuse layers that ran under no_grad alone; see ``verify``."""
        require_grad_mode(self.micro_batches, self._with_grad, self._without_grad)
