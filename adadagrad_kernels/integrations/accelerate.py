"""Accelerate: a loop of the user's own, whose batch grows."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from adadagrad_kernels import optional
from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.integrations.adaptive_steps import AdaptiveStep, AdaptiveSteps, Framework
from adadagrad_kernels.integrations.processes import require_all_processes, require_wrapper

optional.require("accelerate", "adaptive_steps", extra="accelerate")

from accelerate import Accelerator  # noqa: E402
from accelerate.utils import DistributedType, send_to_device  # noqa: E402

__all__ = ["AdaptiveStep", "AdaptiveSteps", "adaptive_steps"]

_MEASURED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def adaptive_steps(
    accelerator: Accelerator,
    model: nn.Module,
    dataset: Any,
    controller: BatchController,
    *,
    micro_batch_size: int,
    **options: Any,
) -> AdaptiveSteps:
    r"""The steps of a loop, each over one batch of the size that a controller says.

    Prepare model and optimizer, and pass the data set itself: every rank draws its share of each
    batch, in micro-batches of equal number. A loss is the mean over the samples of its
    micro-batch; with :math:`m` of the :math:`n` samples of a step in it, on W ranks, it is weighed
    by :math:`m W / n`, which the wrapper's average turns into the mean over all. Ranks wait for
    each other in the last one alone. No sample is lost or repeated.

    ``accelerator.register_for_checkpointing(steps)`` makes ``save_state`` and ``load_state`` keep
    sizes and place, for a resumed run that is bit for bit the one that was never stopped.

    Args:
        accelerator: with ``gradient_accumulation_steps=1``, on whole models (DDP).
        model: as ``prepare`` returned it.
        dataset: with a length.
        controller: decides on the sizes.
        micro_batch_size: the most samples of a rank in one forward pass.
        options: ``samples=`` to train on in all (None: an iteration is an epoch), ``seed=``,
            ``shuffle=``, ``statistics=`` (``"layers"`` or ``"micro_batches"``), ``on_nonfinite=``
            (``"raise"``: gradients that are not finite are an error on all ranks, but under the
            scaler of float16; ``"record"``: the size stays), ``scheduler=``, a
            ``SamplesLR`` that is moved on after each step, ``optimizer=``, with which a run of
            another optimizer is not resumed, ``losses=``, from a micro-batch to the losses of its
            samples by the module without its wrapper, for criteria that read inner products; and
            those of ``DataLoader``, such as ``num_workers=`` and ``collate_fn=``.

    Raises:
        ValueError: for an accelerator that accumulates, or shards models; in several processes for
            a model that was not prepared.

    Example:
        >>> import torch
        >>> from accelerate import Accelerator
        >>> import adadagrad_kernels as adk
        >>> from adadagrad_kernels.integrations.accelerate import adaptive_steps
        >>> accelerator = Accelerator(cpu=True)
        >>> model = torch.nn.Linear(3, 1)
        >>> model, optimizer = accelerator.prepare(model, adk.Adagrad(model.parameters(), lr=0.1))
        >>> data = torch.utils.data.TensorDataset(torch.randn(64, 3), torch.randn(64, 1))
        >>> controller = adk.BatchController(adk.NormTest(0.5), batch_size=8, max_batch_size=32)
        >>> for step in adaptive_steps(accelerator, model, data, controller, micro_batch_size=8):
        ...     for inputs, targets in step:
        ...         step.backward(torch.nn.functional.mse_loss(model(inputs), targets))
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> controller.samples_seen
        64
    """
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"gradient_accumulation_steps={accelerator.gradient_accumulation_steps} would divide "
            "every loss again; leave it at 1: each batch is cut into as many micro-batches as it "
            "needs"
        )
    if accelerator.distributed_type not in _MEASURED:
        raise ValueError(
            f"the accelerator runs {accelerator.distributed_type.value}, where gradients are not "
            "measured. Way out: DDP (plain torchrun or accelerate launch --multi_gpu), if the "
            "model fits"
        )
    launch = "start it with torchrun or accelerate launch; on machines without a GPU with cpu=True"
    require_all_processes("the accelerator", accelerator.num_processes, launch)
    require_wrapper(model, "pass what accelerator.prepare(model) returned")
    scaler = accelerator.scaler
    framework = Framework(
        backward=accelerator.backward,
        no_sync=partial(accelerator.no_sync, model),
        to_device=partial(send_to_device, device=accelerator.device),
        grad_scale=lambda: 1.0 if scaler is None else float(scaler.get_scale()),
        skips=scaler is not None,
        measured=(model, "auto"),
    )
    return AdaptiveSteps(
        framework, dataset, controller, micro_batch_size=micro_batch_size, **options
    )
