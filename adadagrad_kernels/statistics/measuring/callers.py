"""Who calls the model: a wrapper that reduces its gradients over ranks, or the stage of a pipeline.

What such a caller does with the gradients, or with the order of the passes, shows nowhere else.
"""

from __future__ import annotations

import sys
from types import FrameType

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

_PIPELINES = "torch.distributed.pipelining"


def require_known_caller(source: str, *, pooled: bool) -> None:
    """Refuse a call whose record would be of other samples than the gradient.

    Args:
        source: its name, for messages.
        pooled: whether the record is that of all ranks.

    Raises:
        ValueError: inside of a wrapper that reduces the gradients, where the record would be of
            one rank; and inside of a pipeline, which runs micro-batches forward before backward.
    """
    if not pooled and _reduces(getattr(DistributedDataParallel, "_active_ddp_module", None)):
        raise ValueError(
            "the model is called by DistributedDataParallel, which reduces its gradients over all "
            f"ranks, and {source} would give them the samples of this rank alone. Way out: make "
            f"the wrapper first and pass it, {source}(DistributedDataParallel(model), ...)"
        )
    if _PIPELINES in sys.modules and _called_from(_PIPELINES):
        raise ValueError(
            "the model is called by a stage of torch.distributed.pipelining, which runs several "
            f"micro-batches forward before the first backward pass: {source} would take the "
            "samples of all of them for one micro-batch's. Way out: measure a model that is not "
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
