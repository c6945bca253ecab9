"""Finds who calls the model: a wrapper that reduces gradients over ranks, or a pipeline stage.

What they do with the gradients, or with the order of the passes, cannot be seen anywhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from adadagrad_kernels.errors import UnsupportedModelError

_PIPELINES = "torch.distributed.pipelining"
#: The method in which a stage runs one micro-batch; others run the model to learn shapes.
_RUN = "forward_one_chunk"
#: The method of a schedule that has all micro-batches of a step.
_STEP = "_step_microbatches"


@dataclass(frozen=True)
class StageCall:
    """A call of the model by a stage of torch.distributed.pipelining.

    Attributes:
        index: of the micro-batch in its step of the schedule, or None where the stage only learns
            the shapes of tensors, which may hold anything.
        divides: whether the schedule divides the gradients by the number of its micro-batches.
        inputs: samples of each micro-batch of the step, on the first stage.
        targets: the same, on the last stage.
    """

    index: int | None
    divides: bool
    inputs: tuple[int, ...]
    targets: tuple[int, ...]


def require_known_wrapper(source: str, *, pooled: bool) -> None:
    """Refuse a call whose record and gradient would cover different samples.

    Args:
        source: name of the statistics source, for messages.
        pooled: whether the record covers all ranks.

    Raises:
        ValueError: inside a wrapper that reduces the gradients, if the record would cover one
            rank.
    """
    if not pooled and _reduces(getattr(DistributedDataParallel, "_active_ddp_module", None)):
        raise ValueError(
            "the model is called by DistributedDataParallel, which reduces its gradients over all "
            f"ranks, but {source} would measure only the samples of this rank. Way out: make "
            f"the wrapper first and pass it, {source}(DistributedDataParallel(model), ...)"
        )


def require_no_stage(source: str) -> None:
    """Refuse a call by a stage of a pipeline, which runs several micro-batches forward at first.

    Raises:
        ValueError: naming what takes stages.
    """
    if stage_call() is not None:
        raise ValueError(
            "the model is called by a stage of torch.distributed.pipelining, which runs several "
            f"micro-batches forward before the first backward pass: {source} would take all "
            "their samples for one micro-batch, and this stage's parameters for the whole model. "
            "Ways out: layer_statistics(stage_module, ranks=Ranks(pipeline=group)), with the "
            "process group of the stages; a model that is not cut into stages"
        )


def stage_call() -> StageCall | None:
    """The call of a stage that runs now, or None.

    Raises:
        UnsupportedModelError: for a schedule with several stages in a process, or one that takes
            gradients of inputs and parameters apart.
    """
    if _PIPELINES not in sys.modules:
        return None
    found, index, divides = False, None, False
    inputs: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    for frame in _frames_of(_PIPELINES):
        found = True
        if frame.f_code.co_name == _RUN:
            index = frame.f_locals.get("fwd_chunk_id")
        if frame.f_code.co_name == _STEP:
            inputs = _samples(frame.f_locals.get("arg_mbs"))
            targets = _samples(frame.f_locals.get("target_mbs"))
        schedule: Any = frame.f_locals.get("self")
        if _is_of_several_stages(schedule):
            raise UnsupportedModelError(
                f"the stage is run by {type(schedule).__name__}, which runs several stages in a "
                "process, or takes the gradients of inputs and of parameters apart; accepted are "
                "schedules of one stage, ScheduleGPipe and Schedule1F1B. Way out: one of these, "
                "with one stage on every rank"
            )
        divides |= bool(getattr(schedule, "scale_grads", False) is True)
    return StageCall(index, divides, inputs, targets) if found else None


def _samples(micro_batches: Any) -> tuple[int, ...]:
    """Of each; a stage that gets its inputs from another has empty tuples."""
    firsts = [m[0] if isinstance(m, tuple) and m else m for m in micro_batches or ()]
    return tuple(len(first) for first in firsts if isinstance(first, Tensor) and first.dim())


def _is_of_several_stages(schedule: Any) -> bool:
    kind = getattr(sys.modules.get(f"{_PIPELINES}.schedules"), "PipelineScheduleMulti", ())
    return isinstance(schedule, kind)


def _reduces(wrapper: DistributedDataParallel | None) -> bool:
    return (
        wrapper is not None
        and wrapper.require_backward_grad_sync
        and dist.get_world_size(wrapper.process_group) > 1
    )


def _frames_of(package: str) -> Iterator[FrameType]:
    """Those of a package among the frames that run, from the innermost."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(package):
            yield frame
        frame = frame.f_back
