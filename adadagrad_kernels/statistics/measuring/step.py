"""A step in the making: its micro-batches, from the first forward pass to the record."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.measuring.arrivals import Arrivals
from adadagrad_kernels.statistics.measuring.gate import Gate
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.model_call import ModelCall
from adadagrad_kernels.statistics.measuring.problems import Problems
from adadagrad_kernels.statistics.measuring.stage_passes import StagePasses
from adadagrad_kernels.statistics.measuring.stand_ins import StandIns
from adadagrad_kernels.statistics.measuring.together import Together
from adadagrad_kernels.statistics.measuring.uses import Part
from adadagrad_kernels.statistics.measuring.verify import (
    NamedParameters,
    ask_foreign,
    ask_kept,
    require_grad_mode,
    require_known,
)
from adadagrad_kernels.statistics.supported_models import require_per_sample_gradients

#: Micro-batches of a step whose checks are read together.
_UNREAD = 64


class Step:
    """What is known of the step that runs, and how its model is trained.

    Attributes:
        model: the module in training.
        known: its parameters in training by their identity, those that are measured.
        pooled: whether other ranks are in the step too, which must not wait for this one: errors
            of the forward pass are kept until ``statistics``.
        reduced: whether a wrapper writes to gradients once they are there.
        together: the ranks that gather the model's parameters, or None.
        stand_ins: for its sharded parameters, or None.
        stage: the passes of a pipeline's stage, or None.
        copies: ranks that have the same samples.
        variance: whether the variance of every coordinate is measured.
        keeps: whether inner products with a mean that is known later are measured.
        gate: says which steps are measured.
        micro_batches: those of the step so far.
        call: the call of the model that runs.
        arrivals: gradients on their way into ``.grad``.
        problems: errors that a backward pass must not raise, and those for which the host would
            have to wait for a device.
        with_grad: layers called with gradients enabled.
        without_grad: the parts of those called without.
    """

    def __init__(self, model: nn.Module, *, variance: bool, inner_products: bool) -> None:
        self.model = model
        self.pooled = self.reduced = False
        self.together: Together | None = None
        self.stand_ins: StandIns | None = None
        self.stage: StagePasses | None = None
        self.copies = 1
        self.keeps = False
        self.gate = Gate()
        self.call = ModelCall()
        self.arrivals = Arrivals()
        self.variance = variance
        self._inner_products = inner_products
        # The parameters themselves, so that no other one gets the identity of one that is gone.
        self.known = {id(p): p for p in model.parameters() if p.requires_grad}
        self._is_whole = True
        self.micro_batches: list[MicroBatch] = []
        self.reset()

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The model's own parameters by name, whatever stands in for them; those measured."""
        if self.stand_ins is not None:
            return list(self.stand_ins.parameters.items())
        named = self.model.named_parameters()
        return list(named) if self._is_whole else [(n, p) for n, p in named if id(p) in self.known]

    def measure_only(self, parameters: Iterable[nn.Parameter]) -> None:
        """Leave all other parameters of the model out of every step."""
        self._is_whole = False
        self.known = {id(p): p for p in parameters}

    def reset(self) -> None:
        """Forget the step."""
        self.gate.forget_failure()
        if self.together is not None:
            self.together.failed = False
        for micro_batch in self.micro_batches:
            micro_batch.forget()
        self.micro_batches = []
        self.problems = Problems()
        self.call.forget()
        self.with_grad: set[str] = set()
        self.without_grad: dict[str, list[Part]] = {}
        self.arrivals.reset()
        if self.stage is not None:
            self.stage.reset()

    @property
    def running(self) -> MicroBatch | None:
        """The micro-batch whose backward pass runs."""
        if self.stage is not None:
            return self.stage.running
        return self.micro_batches[-1] if self.micro_batches else None

    def open(self, *, is_call: bool = False) -> MicroBatch:
        """The micro-batch of a forward pass; a new one after a backward pass.

        Args:
            is_call: of the model, which is a micro-batch of its own in a pipeline.
        """
        waits = bool(self.micro_batches) and not self.micro_batches[-1].had_backward
        if waits and not (is_call and self.stage is not None):
            return self.micro_batches[-1]
        require_per_sample_gradients(self.model, by_layers=True)
        parameters = self.named_parameters()
        require_known(parameters, self.known)
        if self.stage is None:
            self.forget_unused()
        self.call.forget()
        if self.micro_batches:
            for micro_batch in self.micro_batches:
                if micro_batch.had_backward:
                    self._close(micro_batch, parameters, followed=True)
            kept = self.together is not None
            self.arrivals.ask_unchanged(parameters, self.problems, kept=kept)
        opened = MicroBatch(self.variance, self._inner_products, self.keeps)
        self.micro_batches.append(opened)
        return opened

    def forget_unused(self) -> None:
        """Drop micro-batches whose gradient was taken for the inputs alone, or never."""
        for micro_batch in [each for each in self.micro_batches if not each.reached]:
            micro_batch.forget()
            self.micro_batches.remove(micro_batch)
            self.arrivals.forget()

    @property
    def divided_by(self) -> int:
        """By what a pipeline's schedule has divided the gradients since their backward passes."""
        divides = self.stage is not None and self.stage.divides
        return len(self.micro_batches) if divides else 1

    def finish(self, parameters: NamedParameters) -> None:
        """Measure what is left of the step."""
        self.arrivals.ask_unchanged(parameters, self.problems, divided_by=self.divided_by)
        for micro_batch in self.micro_batches:
            self._close(micro_batch, parameters, followed=False)

    @torch.no_grad()
    def _close(
        self, micro_batch: MicroBatch, parameters: NamedParameters, *, followed: bool
    ) -> None:
        """Finish a micro-batch, once.

        Args:
            micro_batch: whose backward pass is over.
            parameters: of the model, by name.
            followed: whether another one comes, so that its gradient must be kept for the variance.
        """
        if micro_batch.closed:
            return
        micro_batch.closed = True
        micro_batch.finish()
        micro_batch.shared.forget()
        if followed:
            self._require_kept(micro_batch, parameters)
        ask_foreign(micro_batch, parameters, self.problems)
        micro_batch.arrived, micro_batch.sums = {}, {}
        self._judge(micro_batch)
        if followed and self.variance and not self.pooled:
            micro_batch.cumulative = {
                id(p): p.grad.detach().clone()
                for _, p in parameters
                if p.requires_grad and p.grad is not None
            }

    def _require_kept(self, micro_batch: MicroBatch, parameters: NamedParameters) -> None:
        """Refuse another micro-batch if the gradient of those before it is gone.

        At once where the host sees it, or many others came: who forgets ``statistics`` never asks.
        """
        earlier = Problems()
        norms = [each.squared for each in micro_batch.norms]
        ask_kept(parameters, micro_batch.reached, norms, earlier)
        if self.arrivals.may_be_gone(parameters, micro_batch.reached):
            earlier.require_none()
        elif len(self.micro_batches) % _UNREAD == 0:
            self.problems.require_none()
        self.problems.add_all(earlier)

    def _judge(self, micro_batch: MicroBatch) -> None:
        """Compare the norms with those of one sample by itself."""
        if not micro_batch.comparison.waits or self.problems.settle():
            return
        with self.gate.paused():
            try:
                doubt = micro_batch.comparison.judge(micro_batch.norms, self._gradient(micro_batch))
            except UnsupportedModelError as error:
                self.problems.add(error)
                return
        if doubt is not None:
            self.call.doubt(self.model, doubt)

    def _gradient(self, micro_batch: MicroBatch) -> dict[int, Tensor]:
        """That of a first micro-batch, by the identity of parameters."""
        if self.pooled:
            return micro_batch.own
        return {key: p.grad for key, p in self.known.items() if p.grad is not None}

    def require_grad_mode(self) -> None:
        """Refuse layers that ran under no_grad alone; see ``verify``."""
        require_grad_mode(self.micro_batches, self.with_grad, self.without_grad)

    def keep_problem(self, message: str, kind: type[Exception] = ValueError) -> None:
        """Keep an error for the end: raised in a backward pass it would leave half a gradient."""
        self.problems.add(kind(message))
