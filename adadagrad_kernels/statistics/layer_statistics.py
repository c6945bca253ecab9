"""The context that measures a model in training: forward and backward as usual, then a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.shards import ShardedParameters, fully_sharded_modules, is_sharded
from adadagrad_kernels.shared_errors import shared_errors
from adadagrad_kernels.statistics.layers.attachment import Attachment
from adadagrad_kernels.statistics.measuring.group_records import (
    records_of_groups,
    require_groups,
)
from adadagrad_kernels.statistics.measuring.pooled_step import PooledStep
from adadagrad_kernels.statistics.measuring.record_of_step import (
    ask_finite,
    covariance_products_by_losses,
    finished,
    merge_micro_batches,
    nonfinite,
    products_by_losses,
)
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.stage_passes import StagePasses
from adadagrad_kernels.statistics.measuring.step import Step
from adadagrad_kernels.statistics.measuring.together import Together
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.wrappers import (
    ranks_of_mesh,
    ranks_of_stage,
    require_no_partitions,
    resolved,
    unwrapped,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class layer_statistics:  # noqa: N801 (a context manager, named as torch names its own)
    r"""Exact statistics of the model in training, measured by its layers in the backward pass.

    Inside the context forward and backward run as usual, and ``.grad`` is what a plain backward
    pass leaves, to rounding. Each layer computes its parameters' gradient and the samples'
    contributions to it in one pass over its inputs and output gradients. The matrix of per-sample
    (per-example) gradients is never built: norms of layers with few positions come from Gram
    products (ghost norms), others from chunks of contributions. ``statistics`` then returns the
    record of the samples since its last call, of one micro-batch or of several whose gradients
    have added up.

    A sample is a row of the batch, the first dimension of every layer's input. Let :math:`h_i` be
    what sample i adds to ``.grad``. With b samples,

    .. math:: g_i = b\, h_i, \qquad \frac{1}{b} \sum_i g_i = \texttt{.grad},

    If the loss is a mean over the samples, g_i is the gradient of the sample's own loss; for any
    other loss (a sum, weighted tokens) it is b times the gradient of the sample's share.

    Measured by kernels: Linear, Conv1d, Conv2d and Conv3d, LayerNorm, RMSNorm, GroupNorm,
    Embedding, MultiheadAttention, and Conv1D of Transformers. Other modules with parameters of
    their own run again for every sample with ``torch.func.vmap``, chunk by chunk. Contributions to
    parameters that several layers share, or to a layer used twice, are also built chunk by chunk.
    In a compiled model measured layers run between the compiled graphs.

    Args:
        model: the module in training, compiled or not; DistributedDataParallel around it; or one
            of ``fully_shard``, a tensor-parallel plan or both, whose gradients and variances are
            DTensors.
        inner_products: measure :math:`\langle g_i, g \rangle`, for the inner-product tests.
        variance: measure the variance of every coordinate.
        shadow: change nothing: autograd computes the gradients and the layers only listen. The
            weights' gradients are then computed twice.
        interval: measure the last of every so many steps, as ``BatchController(test_interval=...)``
            tests; in the others the layers run as they are.
        when: measure only the steps for which it returns True, asked at the first forward pass of
            each: ``when=controller.wants_test`` skips the steps that decide nothing.
        on_other: ``"vmap"``, or ``"raise"`` for modules without a kernel.
        on_nonfinite: ``"raise"``, or ``"record"`` to get records with NaN and infinity, with which
            ``BatchController`` keeps the size.
        only: says of a module whether it is measured, such as ``is_normalization``; None measures
            all. The record is of the parameters of these modules alone, and has no others; all
            gradients are as ever. Not for sharded models and pipelines.
        groups: parameters by the name of their group, all that train once, such as
            ``GroupBatches.groups``, the same on every rank; the record then has ``by_group``. Not
            for sharded models and pipelines.
        ranks: whose samples the record covers if several processes train. ``"auto"``: those of
            all ranks of the wrapper. A process group or ``Ranks``: those of all its ranks, for a
            model whose gradients something else reduces in the backward pass, or a stage of a
            pipeline, ``Ranks(pipeline=group)``. ``"local"``: those of this process alone, for a
            model whose gradients nothing reduces.

    Over several ranks, every rank gets the same record, exact for any shares, and an error on one
    is raised on all. The record has only sums, no norms or inner products of single samples, but
    with inner products their ``spread``, of which ``noise_estimate`` makes error bars. Norms
    and inner products take one all_gather of a few numbers, the variance one all_reduce of as many
    numbers as there are parameters. Inner products need ``statistics(losses=...)``; in a pipeline
    they do not, and layers keep what they have measured until ``statistics``.

    Raises:
        UnsupportedModelError: for layers whose samples have no gradient of their own, such as
            BatchNorm in training; where asked, for modules without a kernel; for ``only`` and
            ``groups`` of sharded models and pipelines.
        ValueError: for a model without parameters that require grad, or settings out of range; in
            several processes for a model without a wrapper, where ``ranks`` does not say what is
            meant.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.statistics import layer_statistics
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        >>> inputs, targets = torch.randn(8, 3), torch.randn(8, 1)
        >>> with layer_statistics(model) as recorder:
        ...     torch.nn.functional.mse_loss(model(inputs), targets).backward()
        ...     statistics = recorder.statistics()
        >>> statistics.batch_size, statistics.sq_norms.shape
        (8, torch.Size([8]))
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        inner_products: bool = False,
        variance: bool = False,
        shadow: bool = False,
        interval: int = 1,
        when: Callable[[], bool] | None = None,
        on_other: str = "vmap",
        on_nonfinite: str = "raise",
        only: Callable[[nn.Module], bool] | None = None,
        groups: Mapping[str, Iterable[Tensor]] | None = None,
        ranks: str | ProcessGroup | Ranks = "auto",
    ) -> None:
        _require_choice("on_other", on_other, ("vmap", "raise"))
        _require_choice("on_nonfinite", on_nonfinite, ("raise", "record"))
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(
                f"interval must be a whole number of steps, at least 1, got {interval}"
            )
        model, wrapper = unwrapped(model)
        require_no_partitions("layer_statistics", model)
        if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
            raise UnsupportedModelError(
                "the model has lazy modules, whose parameters do not exist yet. Way out: run a "
                "forward pass before layer_statistics(model)"
            )
        pipeline = ranks if isinstance(ranks, Ranks) and ranks.stages is not None else None
        trains = any(p.requires_grad and p.numel() for p in model.parameters())
        if not trains and pipeline is None:  # a stage need not train
            raise ValueError(
                "the model has no parameter that requires grad, so there is nothing to measure; "
                "call requires_grad_() on the parameters to train"
            )
        self.model = model
        self.inner_products = inner_products
        self.variance = variance
        self.interval = interval
        self._when = when
        self._keep_nonfinite = on_nonfinite == "record"
        self._wrapper, self._asked_ranks = wrapper, ranks
        self._sharded: ShardedParameters | None = None
        if any(map(is_sharded, model.parameters())) or fully_sharded_modules(model):
            if wrapper is not None:
                raise UnsupportedModelError(
                    "the model has sharded parameters (DTensors) inside of "
                    "DistributedDataParallel. Way out: fully_shard over the ranks with samples of "
                    "their own, on one mesh with the plan"
                )
            self._sharded = ShardedParameters("layer_statistics", model)
            self._ranks: Ranks | None = ranks_of_mesh(
                ranks,
                self._sharded.mesh,
                "layer_statistics",
                is_alone=not self._sharded.is_planned,
            )
        elif pipeline is not None:
            self._ranks = ranks_of_stage(pipeline, wrapper, "layer_statistics")
        else:
            self._ranks = resolved(ranks, wrapper, "layer_statistics")
        # Over ranks they refer to a mean that no layer knows in its own pass.
        # Unless all of them have the same samples, and one micro-batch.
        alike = self._sharded.same_samples if self._sharded is not None else 0
        in_pass = inner_products and (self._ranks is None or self._ranks.size == alike)
        in_pass &= self._ranks is None or self._ranks.stages is None
        if only is not None:
            _require_selection(only, groups)
        for asked, value in (("only", only), ("groups", groups)):
            if value is not None:
                _require_whole_layers(asked, self._sharded or pipeline)
        self._groups = None if groups is None else require_groups(model, groups)
        self._step = step = Step(model, variance=variance, inner_products=in_pass)
        step.pooled = self._ranks is not None
        step.reduced = step.pooled or wrapper is not None
        recorder = Recorder(step, shadow=shadow)
        self._pooled: PooledStep | None = None
        if self._ranks is not None:
            if self._sharded is not None:
                together = Together(self._ranks, self._sharded)
                recorder.share(together, self._sharded)
            if self._ranks.stages is not None:
                step.stage = StagePasses()
            self._pooled = PooledStep(
                step,
                self._ranks,
                self._sharded,
                variance=variance,
                inner_products=inner_products,
                keeps_nonfinite=self._keep_nonfinite,
                groups=self._groups,
            )
        self._attachment = Attachment(recorder, on_other, only)
        self._errors = shared_errors()
        self._steps = 0
        step.gate.wanted = self._wants

    def __enter__(self) -> layer_statistics:
        if self._ranks is None and resolved(self._asked_ranks, self._wrapper, "layer_statistics"):
            raise ValueError(
                "torch.distributed was set up after layer_statistics(model) was made, which would "
                "see the samples of one rank alone; make it after init_process_group()"
            )
        self._attachment.attach()
        if self._ranks is not None:
            self._errors.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._attachment.detach()
        if self._ranks is not None:
            self._errors.__exit__(kind, error, traceback)

    @property
    def measures(self) -> bool:
        """Whether the coming ``statistics`` has a record.

        The step's first forward pass settles it, or the first read of this property.
        """
        return self._step.gate.measured

    def _wants(self) -> bool:
        on_turn = (self._steps + 1) % self.interval == 0
        return on_turn and (self._when is None or self._when())

    def reset(self) -> None:
        """Forget what was seen since the last ``statistics``, as before a step is repeated."""
        self._step.reset()

    def statistics(
        self,
        losses: Callable[[], Tensor] | None = None,
        *,
        exact: bool = True,
        grad_scale: float = 1.0,
        covariance_products: bool = False,
    ) -> GradientStatistics | None:
        """The record of the samples since the last call; None in a step that is not measured.

        Call it after the backward pass of a step and before gradients are clipped, unscaled or
        used: it reads ``.grad``. ``mean_gradient`` of the record is ``.grad`` itself, not a copy.

        Inner products come out of the layers' own pass if the step is a single micro-batch. With
        several they refer to a mean that none of them knew: pass ``losses`` then.

        Args:
            losses: runs the model on all samples of the step, in their order, and returns their own
                losses, ``[samples]``. Inner products are then the derivatives of these along the
                mean gradient. Over several ranks: the module inside of the wrapper, on this rank's
                samples. It may run several times: with the same random numbers each time, those
                that follow the step's own, and none of them stay drawn.
            exact: by forward mode, exact at about two forward passes; else by a central
                difference, two forward passes and right to some tenths of a percent, for layers
                without a forward-mode derivative.
            grad_scale: factor by which the losses were multiplied, such as
                ``GradScaler.get_scale()``; the record is free of it.
            covariance_products: measure those too, for the intervals of the inner-product tests;
                with ``losses``, in one process, by one more backward pass and one more derivative.

        Raises:
            ValueError: where no backward pass has run, a layer got its gradient twice, ran under
                no_grad alone or gave what is not finite, and for gradients from outside of layers.
            UnsupportedModelError: for a parameter that was used outside of its module.
        """
        measured = self.measures
        try:
            if not measured:
                return None
            if self._pooled is not None:
                if covariance_products:
                    raise UnsupportedModelError(
                        "covariance_products are measured in one process alone; over several "
                        "ranks leave them out, where the inner-product tests have no intervals"
                    )
                return self._pooled.record(self._steps, losses, exact, grad_scale)
            record = self._record(losses, exact, grad_scale)
            if not covariance_products:
                return record
            if losses is None:
                raise ValueError(
                    "covariance_products need statistics(losses=...), a function that runs the "
                    "model and returns the losses of all samples of the step"
                )
            along = covariance_products_by_losses(self._step, losses, exact, record)
            return replace(record, covariance_products=along)
        finally:
            self._steps += 1
            self._step.reset()
            self._step.gate.next_step()

    def _record(
        self, losses: Callable[[], Tensor] | None, exact: bool, grad_scale: float
    ) -> GradientStatistics:
        step = self._step
        micro_batches, parameters = finished(step)
        if not micro_batches:
            step.problems.fail(
                ValueError(
                    "the batch is empty: no sample has reached the layers since the last "
                    "statistics(); run at least one, or call reset() instead"
                )
            )
        with torch.no_grad():
            record = merge_micro_batches(
                micro_batches, parameters, self.variance, grad_scale, step.problems
            )
            if self._groups is not None:
                by_group = records_of_groups(
                    micro_batches, self._groups, record.batch_size, grad_scale
                )
                record = replace(record, by_group=by_group)
        step.call.warn_of_doubts()
        if not record.is_finite and not self._keep_nonfinite:
            ask_finite(micro_batches, step.problems)
            step.problems.fail(ValueError(nonfinite("a gradient")))
        if losses is None:
            if self.inner_products and record.inner_products is None:
                raise ValueError(
                    f"the step has {len(micro_batches)} micro-batches, whose inner products refer "
                    "to their common mean; pass statistics(losses=...), a function that returns "
                    "the losses of all their samples, or use a single micro-batch"
                )
            return record
        products = products_by_losses(step, losses, exact, record.require_mean_gradient())
        return record.with_inner_products(products)


def _require_choice(name: str, given: str, accepted: tuple[str, ...]) -> None:
    if given not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, accepted))}, got {given!r}")


def _require_selection(only: object, groups: object) -> None:
    if not callable(only):
        raise ValueError(
            f"only must be a function that takes a module and says whether it is measured, such as "
            f"is_normalization, got {only!r}"
        )
    if groups is not None:
        raise ValueError("only= leaves parameters out, and groups= needs all of them; pass one")


def _require_whole_layers(name: str, shared_out: object) -> None:
    if shared_out:
        raise UnsupportedModelError(
            f"{name}= does not work for sharded models and stages of a pipeline, whose ranks "
            f"measure their layers together. Ways out: {name}=None; DistributedDataParallel"
        )
