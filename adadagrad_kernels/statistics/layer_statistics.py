"""The context that measures a model in training: forward and backward as usual, then a record."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.ranks import Ranks, ranks_of_mesh, resolved, unwrapped
from adadagrad_kernels.shards import ShardedParameters, fully_sharded_modules, is_sharded
from adadagrad_kernels.statistics.layers.attachment import Attachment
from adadagrad_kernels.statistics.measuring import over_shards, stand_ins
from adadagrad_kernels.statistics.measuring.directional import (
    difference_derivatives,
    forward_derivatives,
)
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.over_ranks import (
    own_numbers,
    record_of_ranks,
    require_each,
    require_one_step,
    variance_of_ranks,
)
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.step import (
    first_nonfinite,
    in_training,
    mean_gradient,
    merge_micro_batches,
    nonfinite,
)
from adadagrad_kernels.statistics.measuring.together import Together
from adadagrad_kernels.statistics.measuring.verify import require_present
from adadagrad_kernels.statistics.record import GradientStatistics

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


_NEEDS_LOSSES = (
    "inner products over several ranks refer to a mean that no layer knows in its own pass; pass "
    "statistics(losses=...), a function that runs the module itself, without its wrapper, and "
    "returns the losses of this rank's samples"
)


_NO_FORWARD_MODE = (
    "inner products by forward mode need derivatives that torch does not have for the tensors of a "
    "tensor-parallel plan. Way out: statistics(losses=..., exact=False), a central difference"
)


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
        ranks: whose samples the record covers if several processes train. ``"auto"``: those of
            all ranks of the wrapper. A process group or ``Ranks``: those of all its ranks, for a
            model whose gradients something else reduces in the backward pass. ``"local"``: those
            of this process alone, for a model whose gradients nothing reduces.

    Over several ranks, every rank gets the same record, exact for any shares, and an error on one
    is raised on all. The record has only sums, no norms or inner products of single samples. Norms
    and inner products take one all_gather of a few numbers, the variance one all_reduce of as many
    numbers as there are parameters. Inner products need ``statistics(losses=...)``.

    Raises:
        UnsupportedModelError: for layers whose samples have no gradient of their own, such as
            BatchNorm in training; and, where asked, for modules without a kernel.
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
        ranks: str | ProcessGroup | Ranks = "auto",
    ) -> None:
        _require_choice("on_other", on_other, ("vmap", "raise"))
        _require_choice("on_nonfinite", on_nonfinite, ("raise", "record"))
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(
                f"interval must be a whole number of steps, at least 1, got {interval}"
            )
        model, wrapper = unwrapped(model)
        if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
            raise UnsupportedModelError(
                "the model has lazy modules, whose parameters do not exist yet. Way out: run a "
                "forward pass before layer_statistics(model)"
            )
        if not any(p.requires_grad and p.numel() for p in model.parameters()):
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
        else:
            self._ranks = resolved(ranks, wrapper, "layer_statistics")
        # Over ranks they refer to a mean that no layer knows in its own pass.
        # Unless all of them have the same samples.
        alike = self._sharded.same_samples if self._sharded is not None else 0
        in_pass = inner_products and (self._ranks is None or self._ranks.size == alike)
        self._recorder = Recorder(model, variance=variance, inner_products=in_pass, shadow=shadow)
        self._recorder.pooled = self._ranks is not None
        self._recorder.reduced = self._recorder.pooled or wrapper is not None
        if self._sharded is not None and self._ranks is not None:
            together = Together(self._ranks, self._sharded)
            self._recorder.share(together, self._sharded)
        self._attachment = Attachment(self._recorder, on_other)
        self._step = 0
        self._recorder.turns.wanted = self._wants

    def __enter__(self) -> layer_statistics:
        if self._ranks is None and resolved(self._asked_ranks, self._wrapper, "layer_statistics"):
            raise ValueError(
                "torch.distributed was set up after layer_statistics(model) was made, which would "
                "see the samples of one rank alone; make it after init_process_group()"
            )
        self._attachment.attach()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._attachment.detach()

    @property
    def measures(self) -> bool:
        """Whether the coming ``statistics`` has a record.

        The step's first forward pass settles it, or the first read of this property.
        """
        return self._recorder.turns.measured

    def _wants(self) -> bool:
        on_turn = (self._step + 1) % self.interval == 0
        return on_turn and (self._when is None or self._when())

    def reset(self) -> None:
        """Forget what was seen since the last ``statistics``, as before a step is repeated."""
        self._recorder.reset()

    def statistics(
        self,
        losses: Callable[[], Tensor] | None = None,
        *,
        exact: bool = True,
        grad_scale: float = 1.0,
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
                samples.
            exact: by forward mode, exact at about two forward passes; else by a central
                difference, two forward passes and right to some tenths of a percent, for layers
                without a forward-mode derivative.
            grad_scale: factor by which the losses were multiplied, such as
                ``GradScaler.get_scale()``; the record is free of it.

        Raises:
            ValueError: where no backward pass has run, a layer got its gradient twice, ran under
                no_grad alone or gave what is not finite, and for gradients from outside of layers.
            UnsupportedModelError: for a parameter that was used outside of its module.
        """
        measured = self.measures
        try:
            if not measured:
                return None
            if self._ranks is None:
                return self._record(losses, exact, grad_scale)
            if self._sharded is not None:
                return self._record_of_shards(self._ranks, self._sharded, losses, exact, grad_scale)
            return self._record_of_ranks(self._ranks, losses, exact, grad_scale)
        finally:
            self._step += 1
            self._recorder.reset()
            self._recorder.turns.next_step()

    def _finished(self) -> tuple[list[MicroBatch], list[tuple[str, nn.Parameter]]]:
        """The micro-batches of the step, and the parameters by name."""
        recorder = self._recorder
        if recorder.turns.failed:
            raise recorder.problems[0]
        recorder.forget_unused()
        recorder.require_grad_mode()
        if not recorder.micro_batches:
            raise ValueError(
                "no gradient has reached the layers since the last statistics(); run the forward "
                "and the backward pass inside the context, then ask"
            )
        parameters = recorder.named_parameters()
        recorder.arrivals.require_unchanged(parameters)
        recorder.close(parameters, followed=False)
        if recorder.problems:
            raise recorder.problems[0]
        micro_batches = recorder.micro_batches
        require_present(parameters, set().union(*(m.reached for m in micro_batches)))
        return [m for m in micro_batches if m.samples != 0], parameters

    def _record(
        self, losses: Callable[[], Tensor] | None, exact: bool, grad_scale: float
    ) -> GradientStatistics:
        recorder = self._recorder
        micro_batches, parameters = self._finished()
        if not micro_batches:
            raise ValueError(
                "the batch is empty: no sample has reached the layers since the last statistics(); "
                "run at least one, or call reset() instead"
            )
        with torch.no_grad():
            record = merge_micro_batches(micro_batches, parameters, self.variance, grad_scale)
        recorder.call.warn_of_doubts()
        if not record.is_finite and not self._keep_nonfinite:
            raise ValueError(nonfinite(first_nonfinite(micro_batches) or "a gradient"))
        if losses is None:
            if self.inner_products and record.inner_products is None:
                raise ValueError(
                    f"the step has {len(micro_batches)} micro-batches, whose inner products refer "
                    "to their common mean; pass statistics(losses=...), a function that returns "
                    "the losses of all their samples, or use a single micro-batch"
                )
            return record
        products = self._products(losses, exact, record.require_mean_gradient())
        return record.with_inner_products(products)

    def _require_finite(self, micro_batches: list[MicroBatch]) -> None:
        layer = None if self._keep_nonfinite else first_nonfinite(micro_batches)
        if layer is not None:
            raise ValueError(nonfinite(layer))

    def _products_of_shards(
        self,
        ranks: Ranks,
        parameters: ShardedParameters,
        losses: Callable[[], Tensor],
        exact: bool,
        mean: dict[str, Tensor],
        micro_batches: list[MicroBatch],
    ) -> float:
        """The sum of the squared inner products of this rank's samples."""
        seen = self._recorder.stand_ins
        assert seen is not None
        with self._recorder.turns.paused():
            if exact:
                products = stand_ins.derivatives(seen, losses, mean)
            else:
                products = over_shards.difference_derivatives(parameters, ranks, losses, mean)
        require_each(products, micro_batches)
        return float(products.square().sum())

    def _products(
        self, losses: Callable[[], Tensor], exact: bool, mean: dict[str, Tensor]
    ) -> Tensor:
        derive = forward_derivatives if exact else difference_derivatives
        with self._recorder.turns.paused():
            return derive(self.model, losses, mean)

    def _record_of_ranks(
        self,
        ranks: Ranks,
        losses: Callable[[], Tensor] | None,
        exact: bool,
        grad_scale: float,
    ) -> GradientStatistics:
        recorder = self._recorder
        named = list(self.model.named_parameters())
        parameters = in_training(named)
        device = next(iter(parameters.values())).device
        micro_batches: list[MicroBatch] = []
        mean: dict[str, Tensor] = {}
        numbers, error = [0.0] * 4, None
        try:
            micro_batches, _ = self._finished()
            self._require_finite(micro_batches)
            mean = mean_gradient(parameters, grad_scale)
            products = None
            if losses is not None and micro_batches:
                products = self._products(losses, exact, mean)
                require_each(products, micro_batches)
            elif self.inner_products and losses is None:
                raise ValueError(_NEEDS_LOSSES)
            with torch.no_grad():
                numbers = own_numbers(micro_batches, mean, products)
        except Exception as problem:  # the others wait: it goes to them with the numbers
            error = problem
        rows = ranks.gather([float(self._step), *numbers], device, error)
        require_one_step([row[0] for row in rows])
        record = record_of_ranks([row[1:] for row in rows], ranks, grad_scale, mean)
        recorder.call.warn_of_doubts()
        if not record.is_finite and not self._keep_nonfinite:
            raise ValueError(nonfinite("a gradient"))
        if self.variance:
            with torch.no_grad():
                variance = variance_of_ranks(micro_batches, parameters, ranks, grad_scale, record)
            record = replace(record, variance=variance)
        return record

    def _record_of_shards(
        self,
        ranks: Ranks,
        parameters: ShardedParameters,
        losses: Callable[[], Tensor] | None,
        exact: bool,
        grad_scale: float,
    ) -> GradientStatistics:
        recorder, device = self._recorder, ranks.device
        micro_batches: list[MicroBatch] = []
        mean: dict[str, Tensor] = {}
        numbers, error = [0.0] * 5, None
        planned = parameters.is_planned
        has_losses = losses is not None
        in_pass = self.inner_products and parameters.same_samples == ranks.size
        try:
            # Another rank's failure: its error comes with the numbers.
            if recorder.problems or not recorder.turns.failed:
                micro_batches, _ = self._finished()
                self._require_finite(micro_batches)
                mean = mean_gradient(parameters, grad_scale)
                if self.inner_products and losses is None and not in_pass:
                    raise ValueError(_NEEDS_LOSSES)
                if in_pass and losses is None:
                    over_shards.require_one(micro_batches)
                if planned and losses is not None and exact:
                    raise UnsupportedModelError(_NO_FORWARD_MODE)
                if not planned:
                    numbers = over_shards.own_numbers(
                        micro_batches, mean, parameters, has_losses=has_losses
                    )
        except Exception as problem:  # the others wait: it goes to them with the numbers
            error = problem
        if planned:
            # Gradients are added up by all ranks or none.
            require_one_step([row[0] for row in ranks.gather([float(self._step)], device, error)])
            with torch.no_grad():
                mean = over_shards.added_gradients(parameters, mean)
                numbers = over_shards.own_numbers(
                    micro_batches, mean, parameters, has_losses=has_losses
                )
        rows = ranks.gather([float(self._step), *numbers], device, error)
        require_one_step([row[0] for row in rows])
        samples_on = ranks.size / parameters.same_samples
        scale = (ranks.gradient_divisor or samples_on) * grad_scale
        record = over_shards.record_of_shards([row[1:] for row in rows], ranks, scale, mean)
        recorder.call.warn_of_doubts()
        if not record.is_finite and not self._keep_nonfinite:
            raise ValueError(nonfinite("a gradient"))
        if losses is not None:
            squares = 0.0
            try:
                # All ranks run the model, also those without samples.
                squares = self._products_of_shards(
                    ranks, parameters, losses, exact, mean, micro_batches
                )
            except Exception as problem:
                error = problem
            added = ranks.gather([squares], device, error)
            total = math.fsum(row[0] for row in added) / parameters.same_samples
            record = replace(record, sum_sq_inner_products=total)
        elif in_pass:
            along = over_shards.products_of_layers(micro_batches[0], ranks)
            products = along * (record.batch_size / (scale * scale))
            record = record.with_inner_products(products)
        if self.variance:
            with torch.no_grad():
                variance = over_shards.variance_of_shards(micro_batches, parameters, scale, record)
            record = replace(record, variance=variance)
        return record


def _require_choice(name: str, given: str, accepted: tuple[str, ...]) -> None:
    if given not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, accepted))}, got {given!r}")
