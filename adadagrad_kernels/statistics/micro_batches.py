"""Estimates the variance from the gradients of micro-batches, for any model at almost no cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adadagrad_kernels.ranks import Ranks, own_agreement
from adadagrad_kernels.statistics.chunks import Chunks, chunks_over_ranks
from adadagrad_kernels.statistics.measuring.callers import require_known_wrapper, require_no_stage
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.spectral import (
    SpectralNoise,
    noise_and_signal,
    shorter_product,
)
from adadagrad_kernels.statistics.sums import cosine_of_parts, on_host, squared_norm
from adadagrad_kernels.wrappers import require_whole_parameters, resolved, unwrapped

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class MicroBatchGradients:
    r"""Estimates V_norm from the gradients of a step's micro-batches, without per-sample gradients.

    With micro-batches :math:`c = 1, \dots, C` of :math:`m_c` samples, mean gradients
    :math:`g_c`, :math:`b = \sum_c m_c` and :math:`\bar g = \frac{1}{b} \sum_c m_c g_c`,

    .. math::
        \hat V_{\mathrm{norm}} = \frac{1}{C-1} \sum_c m_c \lVert g_c - \bar g \rVert^2
            = \frac{1}{C-1} \Bigl( \sum_c m_c \lVert g_c \rVert^2 - b N \Bigr),

    whose expectation is that of :math:`V_{\mathrm{norm}}` for any sizes. For equal sizes it is
    :math:`\frac{b}{C} \mathrm{Var}_C`, the estimator of DDP-Norm (Lau, Li, Xu, Liu, Kolar,
    arXiv 2412.21124) and of the gradient noise scale (McCandlish et al. 2018, appendix A.1).

    ``batch_size``, ``mean_sq_norm`` and the gradient in ``.grad`` are exact. ``sum_sq_norms`` is
    estimated as :math:`(b-1) \hat V_{\mathrm{norm}} + b N`, which is unbiased for
    :math:`\sum_i \lVert g_i \rVert^2`, so the record's ``variance_norm`` is the estimate. With
    C - 1 degrees of freedom it is much noisier than the variance over samples: use four
    micro-batches or more. Inner products, coordinate-wise variance and single norms are not
    measured. Two micro-batches of one size also give the exact ``halves_cosine``; more would have
    to keep the gradients of the halves, and do not.

    It works for every model, BatchNorm, recurrent and attention layers included, because the
    gradients are those of training itself. It costs one dot product of each micro-batch's gradient
    with itself, seen by a hook on its way into ``.grad``, and one of ``.grad`` at the end. It keeps
    no gradient.

    Over several ranks the micro-batches of all of them count, from one all_gather of a few numbers:
    the hooks see the rank's own gradient, before averaging. Pass the wrapper.

    Scale each loss by the micro-batch's share of the samples, as gradient accumulation does
    anyway, so that ``.grad`` becomes the mean gradient. All parameters that require grad when
    ``micro_batch`` is entered are observed; gradients that reach them elsewhere are not.

    With ``matrices`` the record also says what spectral descent sees, for ``SpectralNormTest``:
    one product of each of these matrices' gradients with itself in every micro-batch, and at the
    end the eigenvalues of two matrices of its shorter side.

    Args:
        model: the module in training, or DistributedDataParallel around it.
        ranks: as for ``layer_statistics``.
        matrices: names of parameters with two dimensions, such as those that Muon updates.

    Raises:
        ValueError: for a model that nothing reduces, where several processes train; for names of
            ``matrices`` that are no matrices in training.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.statistics import MicroBatchGradients
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        >>> source = MicroBatchGradients(model)
        >>> batch = torch.randn(32, 3)
        >>> for inputs in batch.split(8):
        ...     with source.micro_batch(samples=len(inputs)):
        ...         (model(inputs).square().mean() * len(inputs) / len(batch)).backward()
        >>> source.result().batch_size
        32
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ranks: str | ProcessGroup | Ranks = "auto",
        matrices: Iterable[str] = (),
    ) -> None:
        self.model: nn.Module
        self.model, wrapper = unwrapped(model)
        require_whole_parameters("MicroBatchGradients", self.model)
        self._ranks = resolved(ranks, wrapper, "MicroBatchGradients")
        self._matrices = _matrices(self.model, matrices)
        self.reset()

    @contextmanager
    def micro_batch(self, samples: int) -> Iterator[None]:
        """Observe the backward pass of one micro-batch, run inside this context.

        If the body raises, nothing is recorded: restore the gradients and repeat the micro-batch.

        Args:
            samples: number of samples of the micro-batch.

        Raises:
            ValueError: for no samples; where ``.grad`` is not clear before the first micro-batch
                of a step; where the body ran no backward pass, or two.
        """
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not self._samples and any(p.grad is not None and p.grad.any() for p in parameters):
            raise ValueError(
                "gradients of an earlier step are left in .grad and would count as this step's; "
                "call optimizer.zero_grad() before the first micro-batch"
            )
        sq_norms: dict[Tensor, Tensor] = {}
        products: dict[str, Tensor] = {}
        handles = [
            parameter.register_hook(partial(_observe, sq_norms, parameter))  # type: ignore[no-untyped-call]
            for parameter in parameters
        ]
        handles += [
            matrix.register_hook(partial(_multiply, products, name))  # type: ignore[no-untyped-call]
            for name, matrix in self._matrices.items()
        ]
        handles.append(self.model.register_forward_pre_hook(self._see_caller))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        if not sq_norms:
            raise ValueError(
                "no gradient reached the model's parameters; run loss.backward() inside "
                "micro_batch()"
            )
        self._samples.append(samples)
        self._sq_norms.append(torch.stack(list(sq_norms.values())).sum())
        for name, product in products.items():
            before = self._products.get(name)
            product = product.div_(samples)
            self._products[name] = product if before is None else before.add_(product)

    def result(self, *, grad_scale: float = 1.0) -> GradientStatistics:
        """The record of the micro-batches since the last call.

        Call it before gradients are clipped, unscaled or used: it reads ``.grad``.

        Args:
            grad_scale: factor by which the losses were multiplied besides their share, such as
                ``GradScaler.get_scale()``; the record is free of it.

        Raises:
            ValueError: for fewer than two micro-batches, which say nothing about the variance.
                They are forgotten, and ``.grad`` holds their gradient.
        """
        samples, scaled_norms, products = self._samples, self._sq_norms, self._products
        self.reset()
        if self._ranks is not None:
            return self._record_of_ranks(self._ranks, samples, scaled_norms, products, grad_scale)
        if len(samples) < 2:
            raise ValueError(
                f"the variance over micro-batches needs at least two of them, got {len(samples)}; "
                "keep the batch size, split the batch, or measure with PerSampleGradients"
            )
        batch_size = sum(samples)
        grads = [p.grad for p in self.model.parameters() if p.requires_grad and p.grad is not None]
        *sq_norms, mean_sq_norm = (
            value / (grad_scale * grad_scale)
            for value in torch.stack([*scaled_norms, squared_norm(grads)]).tolist()
        )
        # Each observed gradient is (m_c / b) g_c.
        between = sum(
            batch_size * batch_size / size * sq_norm
            for size, sq_norm in zip(samples, sq_norms, strict=True)
        )
        cosine = None
        if len(samples) == 2 and samples[0] == samples[1]:
            cosine = cosine_of_parts(mean_sq_norm, *sq_norms)
        variance_norm = (between - batch_size * mean_sq_norm) / (len(samples) - 1)
        return GradientStatistics(
            batch_size=batch_size,
            mean_sq_norm=mean_sq_norm,
            sum_sq_norms=(batch_size - 1) * variance_norm + batch_size * mean_sq_norm,
            halves_cosine=cosine,
            spectral=self._spectral(products, batch_size, len(samples), grad_scale),
            agreement=own_agreement(None),
        )

    def _record_of_ranks(
        self,
        ranks: Ranks,
        samples: list[int],
        sq_norms: list[Tensor],
        products: dict[str, Tensor],
        grad_scale: float,
    ) -> GradientStatistics:
        parameters = list(self.model.parameters())
        own = Chunks.of(samples, sq_norms)
        record = chunks_over_ranks(ranks, own, parameters, grad_scale)
        if not self._matrices:
            return record
        counts = ranks.gather([float(len(samples))], parameters[0].device)
        count = int(sum(row[0] for row in counts))
        mine = [
            shorter_product(torch.zeros_like(matrix)) if product is None else product
            for name, matrix in self._matrices.items()
            for product in (products.get(name),)
        ]
        added = dict(zip(self._matrices, ranks.add_up_all(mine), strict=True))
        scale = ranks.divisor * grad_scale
        spectral = self._spectral(added, record.batch_size, count, scale, grad_scale)
        return replace(record, spectral=spectral)

    def _spectral(
        self,
        products: dict[str, Tensor],
        samples: int,
        count: int,
        scale: float,
        grad_scale: float | None = None,
    ) -> dict[str, SpectralNoise] | None:
        """Of every matrix; None where none was asked for.

        Args:
            products: the sums of h_c h_c' / m_c, where g_c = b h_c / (scale m_c).
            samples: b.
            count: of micro-batches.
            scale: of the gradients h_c.
            grad_scale: of ``.grad``, where it is another.
        """
        if not self._matrices:
            return None
        grad_scale = scale if grad_scale is None else grad_scale
        factor = samples / scale
        found = {}
        for name, matrix in self._matrices.items():
            if matrix.grad is None or name not in products:
                continue
            mean = matrix.grad.to_dense() if matrix.grad.is_sparse else matrix.grad
            squares = products[name] * (factor * factor)
            found[name] = noise_and_signal(squares, mean / grad_scale, samples, count)
        numbers = dict(zip(found, on_host(list(found.values())), strict=True))
        # No micro-batch has used the others.
        return {name: SpectralNoise(*numbers.get(name, (0.0, 0.0))) for name in self._matrices}

    def _see_caller(self, *_: object) -> None:
        require_known_wrapper("MicroBatchGradients", pooled=self._ranks is not None)
        require_no_stage("MicroBatchGradients")

    def reset(self) -> None:
        """Forget the micro-batches observed so far, as before a step is repeated."""
        self._samples: list[int] = []
        self._sq_norms: list[Tensor] = []
        self._products: dict[str, Tensor] = {}


def _observe(sq_norms: dict[Tensor, Tensor], parameter: Tensor, gradient: Tensor) -> None:
    """Keep the squared norm of what one backward pass adds to a parameter's ``.grad``."""
    if parameter in sq_norms:
        raise ValueError(
            "a parameter received a second gradient within one micro_batch(), and the norm of "
            "their sum is not known; run a single loss.backward() in each, without reentrant "
            "checkpoints that share parameters"
        )
    sq_norms[parameter] = squared_norm([gradient])


def _multiply(products: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    """Keep the product with itself of what one backward pass adds to a matrix's ``.grad``."""
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    products[name] = shorter_product(dense.detach())


def _matrices(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Those parameters of a model.

    Raises:
        ValueError: for a name that is no matrix in training.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in trained or trained[name].dim() != 2:
            shape = f"has the shape {tuple(trained[name].shape)}" if name in trained else "is none"
            matrices = [name for name, p in trained.items() if p.dim() == 2]
            raise ValueError(
                f"matrices must be names of parameters in training with two dimensions, and "
                f"'{name}' {shape}; accepted are {', '.join(map(repr, matrices)) or 'none'}"
            )
    return {name: trained[name] for name in names}
