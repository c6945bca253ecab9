"""A step of several ranks as one record: what each measured, exchanged and added up.

An error of one rank goes to the others with its numbers, so that none of them waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.shards import ShardedParameters
from adadagrad_kernels.statistics.measuring import (
    group_records,
    over_shards,
    over_stages,
    stand_ins,
)
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.over_ranks import (
    NUMBERS,
    SPREAD,
    own_numbers,
    own_spread,
    record_of_ranks,
    require_each,
    require_one_step,
    sample_sq_norms,
    variance_of_ranks,
)
from adadagrad_kernels.statistics.measuring.record_of_step import (
    ask_finite,
    finished,
    in_training,
    mean_gradient,
    nonfinite,
    products_by_losses,
)
from adadagrad_kernels.statistics.measuring.step import Step
from adadagrad_kernels.statistics.measuring.tied_stages import TiedParameters
from adadagrad_kernels.statistics.noise_estimate import SampleSpread, moments_of
from adadagrad_kernels.statistics.randomness import with_same_draws
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import on_host

Rows = Sequence[Sequence[float]]
Losses = Callable[[], Tensor] | None

_NEEDS_LOSSES = (
    "inner products over several ranks refer to a mean that no layer knows in its own pass; pass "
    "statistics(losses=...), a function that runs the module itself, without its wrapper, and "
    "returns the losses of this rank's samples"
)
_NO_LOSSES = (
    "no stage of a pipeline can run the whole model, so statistics() takes no losses in one. Way "
    "out: layer_statistics(..., inner_products=True), which measures them from what the layers "
    "have kept"
)
_NO_FORWARD_MODE = (
    "inner products by forward mode need derivatives that torch does not have for the tensors of a "
    "tensor-parallel plan. Way out: statistics(losses=..., exact=False), a central difference"
)
_NO_PRODUCTS_OF_A_PLAN = (
    "inner products of a pipeline's stage need the mean gradient of all micro-batches whole, which "
    "a tensor-parallel plan shares out. Ways out: inner_products=False, as for the norm test; "
    "fully_shard or DistributedDataParallel in place of the plan"
)


class PooledStep:
    """The steps of a model whose batch several ranks share.

    Args:
        step: of this rank, again and again.
        ranks: that share the batch, in a pipeline with its stages.
        parameters: those that a mesh of ranks holds together, or None where each holds its own.
        variance: whether the variance of every coordinate is measured.
        inner_products: whether inner products are wanted.
        keeps_nonfinite: whether NaN and infinity are recorded.
        groups: of parameters, whose norms are recorded too; not with shards or stages.

    Raises:
        UnsupportedModelError: for inner products of a plan in a pipeline's stage.
    """

    def __init__(
        self,
        step: Step,
        ranks: Ranks,
        parameters: ShardedParameters | None,
        *,
        variance: bool,
        inner_products: bool,
        keeps_nonfinite: bool,
        groups: group_records.Groups | None = None,
    ) -> None:
        self._step, self._ranks, self._parameters = step, ranks, parameters
        self._variance, self._inner_products = variance, inner_products
        self._keeps_nonfinite, self._groups = keeps_nonfinite, groups or {}
        self._tied = TiedParameters()
        if ranks.stages is not None and inner_products:
            if parameters is not None and parameters.is_planned:
                raise UnsupportedModelError(_NO_PRODUCTS_OF_A_PLAN)
            step.keeps = True

    def record(
        self, number: int, losses: Losses, exact: bool, grad_scale: float
    ) -> GradientStatistics:
        """The record of all samples, the same on every rank; see ``layer_statistics``.

        Args:
            number: of the step, the same on all ranks.
            losses: for inner products.
            exact: how these are derived.
            grad_scale: factor by which the losses were multiplied.
        """
        if self._parameters is None:
            return self._of_ranks(number, losses, exact, grad_scale)
        return self._of_shards(self._parameters, number, losses, exact, grad_scale)

    # Every rank holds all parameters, of the model or of its stage.

    def _of_ranks(
        self, number: int, losses: Losses, exact: bool, grad_scale: float
    ) -> GradientStatistics:
        step, ranks = self._step, self._ranks
        parameters = in_training(step.named_parameters())
        every = step.model.parameters()
        device = next(iter(parameters.values())).device if parameters else ranks.device
        micro_batches: list[MicroBatch] = []
        mean: dict[str, Tensor] = {}
        numbers, error = [0.0] * (NUMBERS + 2 * len(self._groups)), None
        try:
            micro_batches = self._finished(losses)
            mean = mean_gradient(parameters, grad_scale)
            products = None
            if losses is not None and micro_batches:
                step.problems.require_none()
                products = products_by_losses(step, losses, exact, mean)
                require_each(products, micro_batches)
            elif self._inner_products and losses is None and ranks.stages is None:
                step.problems.fail(ValueError(_NEEDS_LOSSES))
            with torch.no_grad():
                by_id = {id(p): mean[name] for name, p in parameters.items()}
                numbers = [
                    *own_numbers(micro_batches, mean, products, step.problems, every),
                    *group_records.own_numbers(micro_batches, self._groups, by_id),
                ]
        except Exception as problem:  # the others wait: it goes to them with the numbers
            error = problem
        scale = ranks.divisor * grad_scale

        def build(rows: Rows, divided_by: float) -> GradientStatistics:
            record = record_of_ranks(
                [row[:NUMBERS] for row in rows], ranks, scale * divided_by, mean
            )
            if not self._groups:
                return record
            of_groups = [row[NUMBERS:] for row in rows]
            found = group_records.records_of_ranks(of_groups, self._groups, scale, record)
            return replace(record, by_group=found)

        record, divided_by = self._gathered(number, numbers, device, error, build)
        scale *= divided_by
        if step.keeps:
            gradients = {id(p): mean[name] for name, p in parameters.items()}
            record = self._with_products(record, micro_batches, gradients, scale)
        if self._variance:
            with torch.no_grad():
                variance = variance_of_ranks(micro_batches, parameters, ranks, scale, record)
            record = replace(record, variance=variance)
        return record

    # Each holds a part of them.

    def _of_shards(
        self,
        parameters: ShardedParameters,
        number: int,
        losses: Losses,
        exact: bool,
        grad_scale: float,
    ) -> GradientStatistics:
        step, ranks = self._step, self._ranks
        device, planned = ranks.device, parameters.is_planned
        micro_batches: list[MicroBatch] = []
        mean: dict[str, Tensor] = {}
        numbers, error = [0.0] * over_shards.NUMBERS, None
        has_losses = losses is not None
        in_pass = self._inner_products and not step.keeps
        in_pass &= parameters.same_samples == ranks.size
        try:
            # Another rank's failure: its error comes with the numbers.
            if step.problems.certain or not step.gate.failed:
                micro_batches = self._finished(losses)
                mean = mean_gradient(parameters, grad_scale)
                if self._inner_products and losses is None and not (in_pass or step.keeps):
                    step.problems.fail(ValueError(_NEEDS_LOSSES))
                if in_pass and losses is None:
                    over_shards.require_one(micro_batches)
                if planned and losses is not None and exact:
                    step.problems.fail(UnsupportedModelError(_NO_FORWARD_MODE))
                if planned:
                    step.problems.require_none()
                else:
                    numbers = over_shards.own_numbers(
                        micro_batches, mean, parameters, step.problems, has_losses=has_losses
                    )
        except Exception as problem:  # the others wait: it goes to them with the numbers
            error = problem
        if planned:
            # Gradients are added up by all ranks or none.
            require_one_step([row[0] for row in ranks.gather([float(number)], device, error)])
            with torch.no_grad():
                mean = over_shards.added_gradients(parameters, mean)
                numbers = over_shards.own_numbers(
                    micro_batches, mean, parameters, step.problems, has_losses=has_losses
                )
        scale = (ranks.gradient_divisor or ranks.size / parameters.same_samples) * grad_scale

        def build(rows: Rows, divided_by: float) -> GradientStatistics:
            return over_shards.record_of_shards(rows, ranks, scale * divided_by, mean)

        record, divided_by = self._gathered(number, numbers, device, error, build)
        scale *= divided_by
        if losses is not None:
            along = [0.0] * (2 + SPREAD)
            try:
                # All ranks run the model, also those without samples.
                along = self._products_of_shards(parameters, losses, exact, mean, micro_batches)
            except Exception as problem:
                error = problem
            added = ranks.gather(along, device, error)
            total = math.fsum(row[0] for row in added) / parameters.same_samples
            record = replace(record, sum_sq_inner_products=total)
            if parameters.same_samples == 1:
                factor = (record.batch_size / scale) ** 2
                spread = SampleSpread.of_ranks((row[1:] for row in added), factor)
                record = replace(record, spread=spread)
        elif in_pass:
            squares, products = over_shards.norms_and_products_of_layers(micro_batches[0], ranks)
            record = replace(record, sq_norms=squares * (record.batch_size / scale) ** 2)
            record = record.with_inner_products(products * (record.batch_size / (scale * scale)))
        elif step.keeps:
            gradients = over_shards.gathered_gradients(parameters, mean)
            record = self._with_products(record, micro_batches, gradients, scale)
        if self._variance:
            with torch.no_grad():
                variance = over_shards.variance_of_shards(micro_batches, parameters, scale, record)
            record = replace(record, variance=variance)
        return record

    def _products_of_shards(
        self,
        parameters: ShardedParameters,
        losses: Callable[[], Tensor],
        exact: bool,
        mean: Mapping[str, Tensor],
        micro_batches: Sequence[MicroBatch],
    ) -> list[float]:
        """The sum of the squared inner products of this rank's samples, and how they vary.

        The norms that they vary with are whole where no other rank has the same samples.
        """
        seen, ranks = self._step.stand_ins, self._ranks
        assert seen is not None
        losses = with_same_draws(losses, ranks.device)
        with self._step.gate.paused():
            if exact:
                products = stand_ins.derivatives(seen, losses, mean)
            else:
                products = over_shards.difference_derivatives(parameters, ranks, losses, mean)
        require_each(products, micro_batches)
        numbers = [products.double().square().sum(), own_spread(micro_batches, products)]
        (squares,), spread = on_host(numbers)
        return [squares, float(len(products)), *spread]

    # Of both.

    def _finished(self, losses: Losses) -> list[MicroBatch]:
        """The micro-batches of this rank, whose norms are finite where that is asked for."""
        if self._ranks.stages is not None and losses is not None:
            raise ValueError(_NO_LOSSES)
        if not self._trains:
            return []
        micro_batches, _ = finished(self._step)
        if not self._keeps_nonfinite:
            ask_finite(micro_batches, self._step.problems)
        return micro_batches

    @property
    def _trains(self) -> bool:
        """Whether a parameter is in training; a stage need not have one."""
        return bool(in_training(self._step.named_parameters()))

    @property
    def _divided_by(self) -> int:
        """By how many micro-batches a pipeline's schedule has divided, where D does not say so."""
        return self._step.divided_by if self._ranks.gradient_divisor is None else 1

    def _gathered(
        self,
        number: int,
        numbers: Sequence[float],
        device: torch.device,
        error: Exception | None,
        build: Callable[[Rows, float], GradientStatistics],
    ) -> tuple[GradientStatistics, float]:
        """The record from the numbers of all ranks, and by what schedules have divided it."""
        step, ranks = self._step, self._ranks
        head = [float(number)]
        if ranks.stages is not None:
            head.append(float(self._divided_by) if self._trains else 0.0)
        rows = ranks.gather([*head, *numbers], device, error)
        require_one_step([row[0] for row in rows])
        rows = [row[1:] for row in rows]
        if ranks.stages is None:
            record, divided_by = build(rows, 1.0), 1.0
        else:
            record, divided_by = over_stages.record_of_stages(rows, ranks, build)
            self._tied.require_none(in_training(step.named_parameters()), ranks.stages)
        step.call.warn_of_doubts()
        if not record.is_finite and not self._keeps_nonfinite:
            raise ValueError(nonfinite("a gradient"))
        return record, divided_by

    def _with_products(
        self,
        record: GradientStatistics,
        micro_batches: Sequence[MicroBatch],
        gradients: Mapping[int, Tensor],
        scale: float,
    ) -> GradientStatistics:
        """The record of a pipeline with inner products, from what the layers have kept."""
        ranks, error = self._ranks, None
        assert ranks.stages is not None
        own: Tensor | None = None
        try:
            with torch.no_grad():
                along = over_stages.own_products(micro_batches, gradients).to(ranks.device)
                own = torch.stack([along, sample_sq_norms(micro_batches).to(along)])
        except Exception as problem:
            error = problem
        count = 0 if own is None else own.shape[1]
        counts = [int(row[0]) for row in ranks.gather([float(count)], ranks.device, error)]
        assert own is not None
        if not count:  # nothing of this stage is in training
            own = own.new_zeros(2, max(counts[ranks.rank :: ranks.size]))
        factor = record.batch_size / scale
        products, norms = torch.stack(ranks.stages.rows(own)).sum(0)
        products, norms = products * factor, norms * (factor * factor)
        sums = [products.sum(), products.abs().sum(), products.square().sum()]
        spread = moments_of(norms, products) if len(norms) else norms.new_zeros(SPREAD)
        told = [*torch.stack(sums).tolist(), float(len(norms)), *spread.tolist()]
        rows = ranks.gather(told, ranks.device)[: ranks.size]
        total, size, squares = (math.fsum(row[place] for row in rows) for place in range(3))
        over_stages.require_mean(total / record.batch_size, size / record.batch_size, record)
        whole = SampleSpread.of_ranks(row[3:] for row in rows)
        return replace(record, sum_sq_inner_products=squares, spread=whole)
