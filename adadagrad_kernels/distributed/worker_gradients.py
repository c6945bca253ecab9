"""Estimates the variance from the ranks' own gradients, for any model at almost no cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.settings import require_int
from adadagrad_kernels.statistics.chunks import Chunks, chunks_over_ranks
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm
from adadagrad_kernels.wrappers import require_whole_parameters, resolved, unwrapped

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class WorkerGradients:
    r"""Estimates V_norm from the gradients of the ranks before they are averaged (DDP-Norm).

    With W ranks of :math:`n_r` samples and mean gradients :math:`\bar g_r`, :math:`n = \sum_r n_r`,

    .. math::
        \hat V_{\mathrm{norm}} = \frac{1}{W-1} \sum_r n_r \lVert \bar g_r - \bar g \rVert^2
            = \frac{1}{W-1} \Bigl( \sum_r n_r \lVert \bar g_r \rVert^2 - n N \Bigr),

    whose expectation is that of :math:`V_{\mathrm{norm}}` for any shares (Lau, Li, Xu, Liu, Kolar,
    arXiv 2412.21124; with equal shares the gradient noise scale's estimator of McCandlish et al.
    2018, appendix A.1). ``batch_size``, ``mean_sq_norm`` and ``.grad`` are exact; ``sum_sq_norms``
    follows from the estimate. Two ranks with equal shares also give the exact ``halves_cosine``.
    With W - 1 degrees of freedom it is much noisier than the variance over samples, which
    ``layer_statistics`` measures. Use it for models without per-sample gradients, as with
    BatchNorm, and on many ranks.

    It costs one dot product of the rank's gradient with itself and an all_gather of a few
    numbers. Several micro-batches of a rank count as one gradient here; run all but the last under
    ``no_sync()``. ``MicroBatchGradients`` counts each by itself.

    Args:
        model: DistributedDataParallel around the module in training.
        ranks: ``"auto"`` for the wrapper's own, a process group, or ``Ranks``.

    Raises:
        ValueError: for a model that nothing reduces, for ``ranks="local"``, and where
            torch.distributed does not run.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from adadagrad_kernels.distributed import Ranks, WorkerGradients
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1))
        >>> source = WorkerGradients(model, Ranks())
        >>> with source.backward(samples=8):
        ...     model(torch.randn(8, 3)).square().mean().backward()
        >>> # source.result() needs two ranks
        >>> dist.destroy_process_group()
    """

    def __init__(self, model: nn.Module, ranks: str | ProcessGroup | Ranks = "auto") -> None:
        self.model: nn.Module
        self.model, wrapper = unwrapped(model)
        require_whole_parameters("WorkerGradients", self.model)
        found = resolved(ranks, wrapper, "WorkerGradients")
        if found is None:
            raise ValueError(
                "WorkerGradients compares the gradients of several ranks, and there is only one. "
                "Ways out: MicroBatchGradients, which compares those of micro-batches; "
                "layer_statistics"
            )
        self._ranks, self._wrapper = found, wrapper
        self.reset()

    def reset(self) -> None:
        """Forget what was observed since the last ``result``, as before a step is repeated."""
        self._samples = 0
        self._sq_norms: dict[Tensor, Tensor] = {}
        self._reduced = False

    @contextmanager
    def backward(self, samples: int) -> Iterator[None]:
        """Observe the backward pass of a micro-batch, run inside this context.

        Args:
            samples: of this rank in it, maybe none.

        Raises:
            ValueError: for a negative number, and after a backward pass that was reduced already.
        """
        samples = require_int("samples", samples, at_least=0)
        if self._reduced:
            raise ValueError(
                "an earlier micro-batch of the step was reduced over the ranks, so .grad is no "
                "longer this rank's own. Ways out: run all but the last inside the wrapper's "
                "no_sync(); call result() after each step"
            )
        handles = [
            parameter.register_post_accumulate_grad_hook(self._see)  # type: ignore[no-untyped-call]
            for parameter in self.model.parameters()
            if parameter.requires_grad
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._samples += samples
        self._reduced = self._wrapper is None or bool(self._wrapper.require_backward_grad_sync)

    def result(self, *, grad_scale: float = 1.0) -> GradientStatistics:
        """The record of all samples of the step; every rank calls it.

        Call it before gradients are clipped, unscaled or used: it reads ``.grad``.

        Args:
            grad_scale: factor by which the losses were multiplied besides their share.

        Raises:
            ValueError: on every rank, where gradients differ between ranks, fewer than two have
                samples, or one has seen no backward pass.
        """
        samples, sq_norms = self._samples, list(self._sq_norms.values())
        self.reset()
        error = None
        if not sq_norms:
            error = ValueError(
                "no gradient reached the model's parameters; run loss.backward() inside backward()"
            )
        parameters = list(self.model.parameters())
        own = Chunks(0, 0, 0.0)
        if samples and sq_norms:
            own = Chunks.of([samples], [torch.stack(sq_norms).sum()])
        return chunks_over_ranks(self._ranks, own, parameters, grad_scale, error)

    def _see(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._sq_norms[parameter] = squared_norm([parameter.grad])
