"""Exact statistics from per-sample gradients, computed chunk by chunk with torch.func."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.ranks import Ranks, own_agreement
from adadagrad_kernels.statistics.accumulator import StatisticsAccumulator
from adadagrad_kernels.statistics.measuring.independence import ask_once, warn_of_doubt
from adadagrad_kernels.statistics.pooling import pooled
from adadagrad_kernels.statistics.randomness import RandomState
from adadagrad_kernels.statistics.ratio_estimate import covariance_weights
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sample_losses import SampleLosses
from adadagrad_kernels.statistics.samples import Samples
from adadagrad_kernels.statistics.supported_models import require_per_sample_gradients
from adadagrad_kernels.wrappers import require_whole_parameters, resolved, unwrapped

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_MAX_BYTES = 256 * 2**20
#: Larger chunks cost more: glibc gives blocks above 32 MiB back to the system when they are freed,
#: and every chunk faults its pages in again (CNN of 541,094 parameters on an AMD EPYC: 2.7x a plain
#: step with 16 samples a chunk, 4.1x with 32, and 2.4x where glibc was told to keep the blocks) ...
_CHUNK_BYTES = 32 * 2**20
#: ... but with fewer samples than these the matrix products are too thin (3.8x with 8).
_CHUNK_SAMPLES = 16


class _Own(NamedTuple):
    """What one process has measured.

    Attributes:
        statistics: of its samples.
        unused: parameters that their losses do not reach.
        products: <g_i, direction> of its samples, with the draws of this step.
    """

    statistics: GradientStatistics
    unused: set[str]
    products: Callable[[Mapping[str, Tensor]], Tensor]


class PerSampleGradients:
    r"""A backward pass that measures every per-sample (per-example) gradient, in bounded memory.

    ``backward`` replaces ``loss_fn(model(inputs), targets).backward()``: it adds the mean gradient
    to ``.grad`` and returns the batch's exact ``GradientStatistics``. Per-sample gradients come
    from ``torch.func.vmap(grad)``, a chunk of samples at a time, and go straight into
    ``ops.batch_moments``. Each chunk is a micro-batch; the matrix of all per-sample gradients is
    never built.

    ``loss_fn`` must be a mean over the samples: the gradient of sample i is that of
    ``loss_fn(model(inputs[i:i+1]), targets[i:i+1])``. A loss with another normalisation (a sum,
    class weights, a mean over the tokens of all samples) is not the mean of these losses and is
    refused: every step compares the loss of a chunk's samples with the mean of their own.

    If all samples fit into one chunk, inner products with the mean gradient come out of the same
    pass. Otherwise the mean is known only after the last chunk, and a second pass follows: a
    forward-mode derivative (JVP) of the samples' losses along the mean gradient, which costs two
    to three forward passes (0.85 of a plain step for a small CNN) and makes no per-sample
    gradients. If a layer has no forward-mode derivative (fused attention, LSTM), and in bfloat16,
    float16 or under autocast, where forward mode is too coarse, the second pass computes the
    per-sample gradients again (1.1 of a plain step). Either way the inner products are exact,
    because random layers repeat their draws.

    Dropout and other random layers draw for every sample, as in training, but not the numbers
    that the plain backward pass would draw. Tied parameters count once, under their first name;
    parameters that do not require grad are left out. Hooks on parameters do not run. The
    record of a batch of one has
    its gradient, but raises ValueError when asked for a variance.

    Args:
        model: module, called as ``model(inputs)``.
        loss_fn: called as ``loss_fn(output, targets)``; the mean over the samples, a scalar.
        inner_products: measure <g_i, g>, for the inner-product tests.
        variance: measure the variance of every coordinate, for the coordinate-wise norm test.
        covariance_products: measure <g_i, S g>, S the samples' covariance, for the intervals of
            the inner-product tests; with ``inner_products``, in one process, at about another
            ``backward``.
        max_bytes: most bytes of per-sample gradients at a time. One sample's gradient, as large as
            ``.grad``, may always exist.
        ranks: whose samples the record has, as for ``layer_statistics``. Over several ranks
            ``backward`` adds the mean gradient of all samples to ``.grad`` on every rank.

    Attributes:
        chunk_size: samples per chunk, or None (the default) to choose within ``max_bytes``.

    Raises:
        ValueError: for ``max_bytes`` below 1; ``covariance_products`` without inner products or
            over several ranks.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.statistics import PerSampleGradients
        >>> model = torch.nn.Linear(3, 1)
        >>> source = PerSampleGradients(model, torch.nn.functional.mse_loss, inner_products=True)
        >>> statistics = source.backward(torch.randn(8, 3), torch.randn(8, 1))
        >>> model.weight.grad.shape, statistics.inner_products.shape
        (torch.Size([1, 3]), torch.Size([8]))
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        *,
        inner_products: bool = False,
        variance: bool = False,
        covariance_products: bool = False,
        max_bytes: int = _MAX_BYTES,
        ranks: str | ProcessGroup | Ranks = "auto",
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
        self.model: nn.Module
        self.model, wrapper = unwrapped(model)
        require_whole_parameters("PerSampleGradients", self.model)
        self._ranks = resolved(ranks, wrapper, "PerSampleGradients")
        if covariance_products and not (inner_products and self._ranks is None):
            raise ValueError(
                "covariance_products need inner_products=True, and the samples of one process: set "
                "it, or leave them out"
            )
        self.covariance_products = covariance_products
        self.loss_fn = loss_fn
        self.inner_products = inner_products
        self.variance = variance
        self.max_bytes = max_bytes
        self.chunk_size: int | None = None
        self._losses = SampleLosses(self.model, loss_fn)

    @property
    def bytes_per_sample(self) -> int:
        """Size of one sample's gradient."""
        return sum(p.numel() * p.element_size() for p in self._parameters().values())

    def samples_per_chunk(self, batch_size: int) -> int:
        """How many samples' gradients exist at a time in a batch of ``batch_size``.

        Raises:
            ValueError: for a ``chunk_size`` below 1.
        """
        if self.chunk_size is not None:
            if self.chunk_size < 1:
                raise ValueError(f"chunk_size must be at least 1 or None, got {self.chunk_size}")
            return min(self.chunk_size, batch_size)
        bytes_per_sample = self.bytes_per_sample
        fitting = max(1, self.max_bytes // bytes_per_sample)
        if self.inner_products and self._ranks is None and batch_size <= fitting:
            return batch_size
        return min(fitting, batch_size, max(_CHUNK_SAMPLES, _CHUNK_BYTES // bytes_per_sample))

    @torch.no_grad()
    def backward(self, inputs: Any, targets: Any, *, scale: float = 1.0) -> GradientStatistics:
        """Add the mean gradient to ``.grad`` and return the batch's statistics.

        On any error ``.grad`` is as it was.

        Args:
            inputs: a tensor ``[samples, ...]``, or a tuple, list or dictionary of such, which the
                model takes as one argument.
            targets: the same, for ``loss_fn``.
            scale: factor on what is added to ``.grad``, such as a micro-batch's share of the
                samples of its step. The statistics are those of the unscaled loss.

        Raises:
            UnsupportedModelError: for layers without per-sample gradients, such as BatchNorm, a
                model that mixes samples, and what ``torch.func.vmap`` cannot run.
            ValueError: for an empty batch, inputs and targets of different numbers of samples, a
                loss that is not a scalar or not a mean over the samples, or a model without
                parameters that require grad.
        """
        parameters = self._parameters()
        if self._ranks is None:
            own = self._own(inputs, targets, parameters)
            statistics = replace(own.statistics, agreement=own_agreement(None))
            unused = own.unused
        else:
            statistics, unused = self._of_ranks(self._ranks, inputs, targets, parameters)
        used = {name: p for name, p in parameters.items() if name not in unused}
        _add_to_grads(used, statistics.require_mean_gradient(), scale)
        return statistics

    def _of_ranks(
        self, ranks: Ranks, inputs: Any, targets: Any, parameters: dict[str, nn.Parameter]
    ) -> tuple[GradientStatistics, set[str]]:
        """The record of all ranks, and what the losses of none reach."""
        own, error = None, None
        try:
            own = self._own(inputs, targets, parameters)
        except Exception as problem:  # the others wait: it goes to them with the numbers
            error = problem

        def along(mean: Mapping[str, Tensor]) -> Tensor:
            assert own is not None  # else its error was raised
            return own.products(mean)

        statistics = pooled(
            None if own is None else own.statistics,
            ranks,
            error,
            along if self.inner_products else None,
        )
        assert own is not None
        device = next(iter(statistics.require_mean_gradient().values())).device
        reached = torch.tensor(
            [name not in own.unused for name in parameters], dtype=torch.float32, device=device
        )
        flags = ranks.add_up(reached).tolist()
        return statistics, {n for n, flag in zip(parameters, flags, strict=True) if not flag}

    def _own(self, inputs: Any, targets: Any, parameters: dict[str, nn.Parameter]) -> _Own:
        """The record of this process's samples."""
        require_per_sample_gradients(self.model)
        samples = Samples.of(inputs, targets)
        answer = ask_once(self.model, self.model.forward, None, (inputs,), {}).answer
        warn_of_doubt(self.model, answer)
        detached = {name: parameter.detach() for name, parameter in parameters.items()}
        chunks = samples.chunks(self.samples_per_chunk(len(samples)))
        before = RandomState(samples.tensors[0].device)
        accumulator = StatisticsAccumulator()
        unused = set(parameters)
        for chunk in chunks:
            gradients, losses = self._losses.gradients(detached, chunk, samples)
            unused &= _constant_zeros(gradients)
            accumulator.add(self._measure(gradients, losses, whole_batch=len(chunks) == 1))
        statistics = accumulator.result()

        def products(direction: Mapping[str, Tensor]) -> Tensor:
            after = RandomState(samples.tensors[0].device)
            before.restore()
            along = self._losses.directional_derivatives(detached, chunks, samples, direction)
            after.restore()
            return along

        if self.inner_products and self._ranks is None and len(chunks) > 1:
            mean = statistics.require_mean_gradient()
            statistics = statistics.with_inner_products(products(mean))
        if self.covariance_products:
            assert statistics.inner_products is not None
            weights = covariance_weights(statistics.inner_products)
            after = RandomState(samples.tensors[0].device)
            before.restore()
            turned = self._losses.weighted_gradient(detached, chunks, samples, weights)
            after.restore()
            statistics = replace(statistics, covariance_products=products(turned))
        if any(parameters[name].grad is None for name in unused):
            unused = self._losses.not_reached({n: parameters[n] for n in unused}, samples)
        return _Own(statistics, unused, products)

    @torch.no_grad()
    def directional_derivatives(
        self, inputs: Any, targets: Any, direction: Mapping[str, Tensor]
    ) -> Tensor:
        """<g_i, direction> of every sample, float64 ``[samples]``; ``.grad`` is not touched.

        With the mean gradient of a whole step as direction, these are the inner products of the
        samples of one of its micro-batches: see ``StatisticsAccumulator``. Random layers draw from
        the generators as they are; to repeat the draws of a step, restore the state it began with.

        Args:
            inputs: as for ``backward``.
            targets: as for ``backward``.
            direction: a tensor for each parameter that requires grad, by name.

        Raises:
            UnsupportedModelError: as ``backward``.
            ValueError: as ``backward``, and for a direction of other parameters or shapes.
        """
        require_per_sample_gradients(self.model)
        samples = Samples.of(inputs, targets)
        detached = {name: parameter.detach() for name, parameter in self._parameters().items()}
        expected = {name: tuple(parameter.shape) for name, parameter in detached.items()}
        given = {name: tuple(tensor.shape) for name, tensor in direction.items()}
        if given != expected:
            raise ValueError(
                f"direction must have the shapes of the parameters, {expected}, got {given}"
            )
        chunks = samples.chunks(self.samples_per_chunk(len(samples)))
        return self._losses.directional_derivatives(detached, chunks, samples, direction)

    def _parameters(self) -> dict[str, nn.Parameter]:
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not any(parameter.numel() for parameter in parameters.values()):
            raise ValueError(
                "the model has no parameter that requires grad, so there is nothing to measure; "
                "call requires_grad_() on the parameters to train"
            )
        return parameters

    def _measure(
        self, gradients: dict[str, Tensor], losses: Tensor, *, whole_batch: bool
    ) -> GradientStatistics:
        """The record of one chunk, whose gradients are freed one by one."""
        count = len(losses)
        moments = {}
        for name in list(gradients):
            gradient = gradients.pop(name)
            shape = gradient.shape[1:]
            measured = batch_moments(
                gradient.reshape(count, shape.numel()),
                variance=self.variance and count > 1,
                inner_products=self.inner_products and whole_batch and self._ranks is None,
            )
            mean, variance = measured.mean.view(shape), measured.variance
            if self.variance:
                variance = torch.zeros_like(mean) if variance is None else variance.view(shape)
            moments[name] = measured._replace(mean=mean, variance=variance)
        return GradientStatistics.from_moments(moments, loss=losses.double().mean().item())


def backward_with_statistics(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    inputs: Any,
    targets: Any,
    *,
    inner_products: bool = False,
    variance: bool = False,
    max_bytes: int = _MAX_BYTES,
    ranks: str | ProcessGroup | Ranks = "auto",
) -> GradientStatistics:
    """``PerSampleGradients(...).backward(inputs, targets)`` in one call.

    A training loop that keeps a ``PerSampleGradients`` saves some set-up in every step.

    Args:
        model: module, called as ``model(inputs)``.
        loss_fn: called as ``loss_fn(output, targets)``; the mean over the samples, a scalar.
        inputs: a tensor ``[samples, ...]``, or a tuple, list or dictionary of such.
        targets: the same.
        inner_products: measure <g_i, g>.
        variance: measure the variance of every coordinate.
        max_bytes: most bytes of per-sample gradients at a time.
        ranks: whose samples the record has.

    Raises:
        UnsupportedModelError: for layers without per-sample gradients, such as BatchNorm.
        ValueError: as ``PerSampleGradients``.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.statistics import backward_with_statistics
        >>> model = torch.nn.Linear(3, 1)
        >>> inputs, targets = torch.randn(8, 3), torch.randn(8, 1)
        >>> loss_fn = torch.nn.functional.mse_loss
        >>> backward_with_statistics(model, loss_fn, inputs, targets).batch_size
        8
    """
    source = PerSampleGradients(
        model,
        loss_fn,
        inner_products=inner_products,
        variance=variance,
        max_bytes=max_bytes,
        ranks=ranks,
    )
    return source.backward(inputs, targets)


def _constant_zeros(gradients: Mapping[str, Tensor]) -> set[str]:
    """Parameters with zeros for all samples, which vmap expands where the loss does not reach."""
    return {
        name
        for name, gradient in gradients.items()
        if (len(gradient) == 1 or gradient.stride(0) == 0) and not gradient[0].any()
    }


def _add_to_grads(
    parameters: Mapping[str, nn.Parameter], gradient: Mapping[str, Tensor], scale: float
) -> None:
    """Accumulate as autograd does; what can fail comes before the first write."""
    fresh = {
        name: torch.empty_like(parameter).copy_(gradient[name] * scale)
        for name, parameter in parameters.items()
        if parameter.grad is None
    }
    for name, parameter in parameters.items():
        if parameter.grad is None:
            parameter.grad = fresh[name]
        else:
            parameter.grad.add_(gradient[name], alpha=scale)
