"""Estimates the variance from the ranks' last gradients in a round of local steps (local SGD)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adadagrad_kernels.ranks import Ranks, require_no_stages
from adadagrad_kernels.settings import require_int
from adadagrad_kernels.statistics.chunks import record_between
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm
from adadagrad_kernels.wrappers import require_whole_parameters, unwrapped

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class LocalGradients:
    r"""Estimates V_norm at the end of a round of local steps, where nothing reduces gradients.

    In local SGD each of W ranks takes H steps of its own, then the ranks average their parameters.
    The batch of the next round follows from the gradients :math:`\bar g_r` of the last local steps
    (Lau, Li, Xu, Liu, Kolar, arXiv 2406.13936). With :math:`n_r` samples on rank r,
    :math:`n = \sum_r n_r` and :math:`\bar g = \frac{1}{n} \sum_r n_r \bar g_r`,

    .. math::
        \hat V_{\mathrm{norm}} = \frac{1}{W-1} \sum_r n_r \lVert \bar g_r - \bar g \rVert^2, \qquad
        N = \lVert \bar g \rVert^2.

    The norm test on this record asks for :math:`\hat V_{\mathrm{norm}} / (\eta^2 N)` samples over
    all ranks, the paper's :math:`T_k` times W. The ranks' parameters differ within a round, so
    the estimate holds their drift too, and is above the variance of one point.

    It costs an all_gather of a few numbers and an all_reduce of the gradient, once a round. The
    averaging is torch's: ``torch.distributed.algorithms.model_averaging``.

    Args:
        model: the bare module that this rank trains.
        ranks: a process group, ``Ranks``, or None for all processes.

    Raises:
        ValueError: for DistributedDataParallel, whose gradients are reduced already.
        RuntimeError: where torch.distributed does not run.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from adadagrad_kernels.distributed import LocalGradients
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = torch.nn.Linear(3, 1)
        >>> source = LocalGradients(model)
        >>> model(torch.randn(8, 3)).square().mean().backward()
        >>> # source.statistics(samples=8) needs two ranks
        >>> dist.destroy_process_group()
    """

    def __init__(self, model: nn.Module, ranks: ProcessGroup | Ranks | None = None) -> None:
        inside, wrapper = unwrapped(model)
        self.model: nn.Module = inside
        require_whole_parameters("LocalGradients", inside)
        if wrapper is not None:
            raise ValueError(
                "LocalGradients got DistributedDataParallel, which averages gradients in every "
                "backward pass, so no rank takes steps of its own. Ways out: pass the bare module "
                "to the optimizer and to LocalGradients; WorkerGradients for the wrapper"
            )
        self._ranks = ranks if isinstance(ranks, Ranks) else Ranks(ranks)
        require_no_stages(self._ranks, "LocalGradients")

    def statistics(self, samples: int, *, grad_scale: float = 1.0) -> GradientStatistics:
        """The record of the ranks' gradients; every rank calls it, in the same steps.

        Call it between the backward pass of the last local step and the optimizer's step. It reads
        ``.grad``, the gradient of the mean loss over this rank's samples, and changes nothing.

        Args:
            samples: of this rank in the step.
            grad_scale: factor by which the loss was multiplied.

        Raises:
            ValueError: on every rank, where one has no gradient, or trains other parameters, or
                there are fewer than two.
        """
        samples = require_int("samples", samples, at_least=1)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        error = None
        if all(p.grad is None for p in parameters):
            error = ValueError(
                "no parameter has a gradient; call statistics() between loss.backward() and the "
                "optimizer's step"
            )
        device = parameters[0].device if parameters else self._ranks.device
        own = squared_norm([p.grad for p in parameters if p.grad is not None]).item()
        elements = float(sum(p.numel() for p in parameters))
        rows = self._ranks.gather([float(samples), own, elements], device, error)
        total, scale = int(sum(row[0] for row in rows)), grad_scale * grad_scale
        if len(rows) < 2:
            raise ValueError(
                "the variance between the ranks' gradients needs at least two ranks, got one; "
                "measure with layer_statistics, or between micro-batches with MicroBatchGradients"
            )
        if len({row[2] for row in rows}) > 1:
            raise ValueError(
                f"the ranks train {', '.join(f'{row[2]:.0f}' for row in rows)} elements of "
                "parameters; accepted are the same on all: freeze the same ones on every rank"
            )
        between = math.fsum(count * sq_norm for count, sq_norm, _ in rows) / scale
        signal = squared_norm(self._mean(parameters, samples / total)).item() / scale
        return record_between(len(rows), total, between, signal, self._ranks.agreement)

    def _mean(self, parameters: Sequence[nn.Parameter], share: float) -> list[Tensor]:
        """The gradient of all samples, to which an unused parameter of this rank adds nothing."""
        own = []
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            wide = torch.promote_types(gradient.dtype, torch.float32)
            own.append(gradient.detach().to_dense().to(wide) * share)
        return self._ranks.add_up_all(own)
