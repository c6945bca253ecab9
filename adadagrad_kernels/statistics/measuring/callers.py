"""Finds who calls the model: a wrapper that reduces gradients over ranks, or a pipeline stage.

What they do with the gradients, or with the order of the passes, cannot be seen anywhere else.
"""

from __future__ import annotations

import sys
from types import FrameType

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

_PIPELINES = "torch.distributed.pipelining"


def require_known_caller(source: str, *, pooled: bool) -> None:
    """Refuse a call whose record and gradient would cover different samples.

    Args:
        source: name of the statistics source, for messages.
        pooled: whether the record covers all ranks.

    Raises:
        ValueError: inside a wrapper that reduces the gradients, if the record would cover one
            rank; inside a pipeline, which runs several forward passes before a backward pass.
    """
    if not pooled and _reduces(getattr(DistributedDataParallel, "_active_ddp_module", None)):
        raise ValueError(
            "the model is called by DistributedDataParallel, which reduces its gradients over all "
            f"ranks, but {source} would measure only the samples of this rank. Way out: make "
            f"the wrapper first and pass it, {source}(DistributedDataParallel(model), ...)"
        )
    if _PIPELINES in sys.modules and _called_from(_PIPELINES):
        raise ValueError(
            "the model is called by a stage of torch.distributed.pipelining, which runs several "
            f"micro-batches forward before the first backward pass: {source} would take all "
            "their samples for one micro-batch. Way out: measure a model that is not "
            "cut into stages, with DistributedDataParallel around it"
        )


def _reduces(wrapper: DistributedDataParallel | None) -> bool:
    return (
        wrapper is not None
        and wrapper.require_backward_grad_sync
        and dist.get_world_size(wrapper.process_group) > 1
    )


def _called_from(package: str) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(package):
            return True
        frame = frame.f_back
    return False
