"""The backward pass of a step: gradients of layers' outputs are measured as they come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.measuring.samples import unknown_shares_message
from adadagrad_kernels.statistics.measuring.step import Step
from adadagrad_kernels.statistics.measuring.tensor_parallel import (
    gradient_here,
    local_uses,
    shared_addends_message,
)
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Use
from adadagrad_kernels.statistics.measuring.verify import (
    ask_clear,
    changed_gradient_message,
    changed_input_message,
    dropped_gradient_message,
    foreign_gradient_message,
    late_hook_message,
    partial_gradients_message,
    second_backward_message,
)


class BackwardPass:
    """Takes gradients: of layers' outputs, and of parameters on their way into ``.grad``.

    Args:
        step: that they belong to.
    """

    def __init__(self, step: Step) -> None:
        self._step = step

    def replace(self, use: LayerUse) -> tuple[Tensor | None, Tensor | None]:
        """Measure a use and give the gradients of its weight and bias, in place of autograd."""
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
                self._step.arrivals.expect(part.parameter, gradient)
        micro_batch.leave(use)
        return gradients

    def observe(self, use: Use) -> None:
        """Measure a use whose gradients autograd computes."""
        if isinstance(use, LayerUse) and use.output is not None:
            self._observe_parts(use)
        elif self._is_measurable(use):
            self._observe_whole(use)

    def _observe_parts(self, use: LayerUse) -> None:
        step = self._step
        try:
            uses = local_uses(use)
        except UnsupportedModelError as error:
            step.problems.add(error)
            return
        if use.shared:
            step.keep_problem(unknown_shares_message(use.layer), UnsupportedModelError)
            return
        shared = use.micro_batch.shares(use)
        if shared and any(each.addends is not None for each in uses):
            step.keep_problem(shared_addends_message(use.layer), UnsupportedModelError)
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
        elif isinstance(use, LayerUse) and not micro_batch.shares(use):
            self._require_first(use)
            gradients = use.restored(micro_batch.measure(use))
            for part, gradient in zip((use.weight, use.bias), gradients, strict=True):
                if part is not None and gradient is not None:
                    micro_batch.sums[part.key] = gradient
            micro_batch.leave(use)
        elif use not in micro_batch.pending:
            micro_batch.pending.append(use)

    def _is_measurable(self, use: Use) -> bool:
        """Whether a gradient that came back can be measured."""
        step = self._step
        if use.micro_batch not in step.micro_batches:
            return False  # forgotten by reset()
        use.micro_batch.had_backward = True
        if use.arrivals > 1:
            step.keep_problem(second_backward_message(use.layer))
            return False
        if use.changed_in_place:
            step.keep_problem(changed_input_message(use.layer))
            return False
        use.arrange()
        if use.shared and not use.micro_batch.shared.assign_shares(
            use, use.micro_batch.samples or 1
        ):
            step.keep_problem(unknown_shares_message(use.layer), UnsupportedModelError)
            return False
        return True

    def _require_first(self, use: Use) -> None:
        if any(part.key in use.micro_batch.parts for part in use.parts):
            self._step.keep_problem(partial_gradients_message(use.layer))

    def note_gradient(self, parameter: nn.Parameter, name: str, grad: Tensor) -> None:
        """See the whole gradient of a parameter on its way into ``.grad``."""
        step = self._step
        whole, grad = grad, gradient_here(parameter, grad)
        step.gate.note_backward()
        micro_batch = step.running
        if micro_batch is not None:
            micro_batch.had_backward = True
            if not any(each.reached for each in step.micro_batches):
                self._ask_clear()
            micro_batch.reached.add(id(parameter))
            if step.pooled and (step.variance or micro_batch.comparison.waits):
                before = micro_batch.own.get(id(parameter))
                own = grad.detach().clone() if before is None else before + grad
                micro_batch.own[id(parameter)] = own
            others = step.micro_batches if step.together is None else []
            earlier = (each.reached for each in others if each is not micro_batch)
            if parameter.grad is None and any(id(parameter) in reached for reached in earlier):
                step.keep_problem(dropped_gradient_message(f"'{name}'"))
            step.arrivals.note_at_the_end(step.known.values(), reduced=step.reduced)
        as_expected = step.arrivals.matches_expected(parameter, grad)
        if as_expected is None:
            if micro_batch is not None:
                before = micro_batch.arrived.get(id(parameter))
                if before is not None:
                    before = before + grad
                elif step.stage is not None and whole is not grad:
                    # Autograd may keep the DTensor itself, and add later gradients to it in place.
                    before = grad.clone()
                micro_batch.arrived[id(parameter)] = grad if before is None else before
        elif isinstance(as_expected, Tensor):
            error = ValueError(foreign_gradient_message(name))
            step.problems.ask_each(~as_expected, lambda _: error)
        elif not as_expected:
            step.keep_problem(foreign_gradient_message(name))

    @torch.no_grad()
    def _ask_clear(self) -> None:
        """As the first gradient arrives: until then those of an earlier step may be set to zero."""
        step = self._step
        if any(parameter.grad is not None for parameter in step.known.values()):
            ask_clear(step.named_parameters(), step.problems)

    def note_after_hooks(self, name: str, parameter: Tensor) -> None:
        """See ``.grad`` behind the hooks that may change it, and ahead of a wrapper."""
        step = self._step
        if step.reduced and not step.arrivals.is_as_marked(parameter):
            step.keep_problem(changed_gradient_message(name))

    def note_hook(self, name: str) -> None:
        """Note a hook registered after the forward pass, which sees the gradient last."""
        step = self._step
        if step.micro_batches:
            step.keep_problem(late_hook_message(name))
