"""Lightning Fabric: a loop of the user's own, whose batch grows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch.distributed as dist

from adadagrad_kernels import optional, ranks
from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.integrations.adaptive_steps import AdaptiveStep, AdaptiveSteps, Framework
from adadagrad_kernels.integrations.processes import require_all_processes
from adadagrad_kernels.integrations.random_states import random_states, set_random_states
from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.settings import require_keys

optional.require("lightning.fabric", "adaptive_steps", extra="lightning")

from lightning.fabric import Fabric  # noqa: E402
from lightning.fabric.strategies import DDPStrategy, SingleDeviceStrategy  # noqa: E402

__all__ = ["AdaptiveStep", "FabricSteps", "adaptive_steps"]

_logger = logging.getLogger("adadagrad_kernels")


class FabricSteps(AdaptiveSteps):
    """``AdaptiveSteps`` with the random numbers of every rank, which Fabric does not keep."""

    def state_dict(self) -> dict[str, Any]:
        """The controller, the place, the scheduler, and random numbers; all ranks call it."""
        mine, everyone = random_states(), [None] * ranks.world_size()
        if len(everyone) > 1:
            dist.all_gather_object(everyone, mine)
        return {**super().state_dict(), "random": everyone if len(everyone) > 1 else [mine]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state_dict``, with the random numbers of that place."""
        require_keys("adaptive_steps", state, ("random",))
        super().load_state_dict(state)
        if len(state["random"]) == ranks.world_size():
            set_random_states(state["random"][ranks.own_rank()])
        else:
            _logger.warning(
                "the checkpoint has random numbers of %d ranks, and %d train now: dropout will "
                "not be that of the saved run",
                len(state["random"]),
                ranks.world_size(),
            )


def adaptive_steps(
    fabric: Fabric,
    model: Any,
    dataset: Any,
    controller: BatchController,
    *,
    micro_batch_size: int,
    **options: Any,
) -> FabricSteps:
    r"""The steps of a loop, each over one batch of the size that a controller says.

    Set up model and optimizer, and pass the data set itself: every rank draws its share of each
    batch, in micro-batches of equal number. A loss is the mean over the samples of its
    micro-batch; with :math:`m` of the :math:`n` samples of a step in it, on W ranks, it is weighed
    by :math:`m W / n`, which the wrapper's average turns into the mean over all. Ranks wait for
    each other in the last one alone. No sample is lost or repeated.

    ``fabric.save(path, {"model": model, "optimizer": optimizer, "steps": steps})`` and
    ``fabric.load`` keep sizes, place and random numbers, for a resumed run that is bit for bit the
    one that was never stopped.

    Args:
        fabric: launched, on whole models (one device, or DDP).
        model: as ``setup`` returned it.
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
        ValueError: for a strategy that shards models, for a model that was not set up, and for a
            Fabric that does not know of the other processes.

    Example:
        >>> import torch
        >>> from lightning.fabric import Fabric
        >>> import adadagrad_kernels as adk
        >>> from adadagrad_kernels.integrations.fabric import adaptive_steps
        >>> fabric = Fabric(accelerator="cpu")
        >>> model = torch.nn.Linear(3, 1)
        >>> model, optimizer = fabric.setup(model, adk.Adagrad(model.parameters(), lr=0.1))
        >>> data = torch.utils.data.TensorDataset(torch.randn(64, 3), torch.randn(64, 1))
        >>> controller = adk.BatchController(adk.NormTest(0.5), batch_size=8, max_batch_size=32)
        >>> for step in adaptive_steps(fabric, model, data, controller, micro_batch_size=8):
        ...     for inputs, targets in step:
        ...         step.backward(torch.nn.functional.mse_loss(model(inputs), targets))
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> controller.samples_seen
        64
    """
    strategy = fabric.strategy
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):
        raise ValueError(
            f"Fabric runs a {type(strategy).__name__}, where gradients are not measured. Way out: "
            "strategy='ddp', if the model fits"
        )
    if not hasattr(model, "module"):
        raise ValueError(
            f"the model, a {type(model).__name__}, was not set up; pass what fabric.setup(model, "
            "optimizer) returned"
        )
    launch = "Fabric(strategy='ddp', devices=...), and fabric.launch()"
    require_all_processes("Fabric", fabric.world_size, launch)
    scaler = getattr(strategy.precision, "scaler", None)
    framework = Framework(
        backward=fabric.backward,
        no_sync=partial(fabric.no_backward_sync, model),
        to_device=fabric.to_device,
        grad_scale=lambda: 1.0 if scaler is None else float(scaler.get_scale()),
        skips=scaler is not None,
        # The module inside: Fabric's own wrapper is not one whose gradients are reduced by itself.
        measured=(model.module, "auto" if ranks.world_size() == 1 else Ranks()),
    )
    return FabricSteps(framework, dataset, controller, micro_batch_size=micro_batch_size, **options)
