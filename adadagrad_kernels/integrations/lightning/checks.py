"""What a Lightning Trainer must be for its batch to grow; each refusal names the way out."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from adadagrad_kernels.integrations.samples_scheduler import SamplesScheduler

_logger = logging.getLogger("adadagrad_kernels")

#: Strategies in which every process has whole gradients; others of their kind shard.
MEASURED = (SingleDeviceStrategy, DDPStrategy)


def require_trainer(trainer: Trainer) -> None:
    """Refuse what would change the batch behind the controller's back, or hide its gradients.

    Raises:
        ValueError: naming the setting and the way out.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) would step after "
            "so many batches, each of which is a whole step here. Ways out: "
            "accumulate_grad_batches=1; to run a batch in parts, manual optimization with "
            "AdaptiveBatch.micro_batches(batch, size)"
        )
    if type(trainer.strategy) not in MEASURED:
        raise ValueError(
            f"the Trainer's strategy is a {type(trainer.strategy).__name__}, in which the "
            "gradients of a step have not been measured. Ways out: strategy='ddp', if the model "
            "fits; a loop of your own (docs/guide/distributed.md)"
        )
    overfit = getattr(trainer, "overfit_batches", 0)
    if overfit:
        raise ValueError(
            f"Trainer(overfit_batches={overfit}) would draw the same batches "
            "again; pass a small data set instead"
        )


def require_loader(given: Any, ours: Any) -> None:
    """Refuse batches that the controller does not decide on.

    Raises:
        ValueError: naming what was given and the way out.
    """
    if ours is not None and given is ours:
        return
    sampler = getattr(given, "batch_sampler", None)
    kind = type(given).__name__
    what = kind if sampler is None else f"{kind} with a {type(sampler).__name__}"
    raise ValueError(
        f"the Trainer trains on a {what}, whose batches no controller decides on"
        + (
            "; it has a length by which Lightning plans, and Lightning would replace its sampler "
            "on several processes (use_distributed_sampler)"
            if hasattr(given, "__len__")
            else ""
        )
        + ". Way out: trainer.fit(module, adaptive.dataloader(dataset)), or return "
        "adaptive.dataloader(dataset) from train_dataloader()"
    )


def require_one_optimizer(trainer: Trainer) -> None:
    """Refuse several optimizers, whose gradients a record would mix.

    Raises:
        ValueError: with their number.
    """
    if len(trainer.optimizers) != 1:
        raise ValueError(
            f"the module has {len(trainer.optimizers)} optimizers; accepted is one, of the model "
            "whose gradients decide. Way out: parameter groups of one optimizer"
        )


def warn_of_step_schedulers(trainer: Trainer) -> None:
    """Warn of schedulers that count steps, of which there will be fewer than planned."""
    for config in trainer.lr_scheduler_configs:
        ours = isinstance(config.scheduler, SamplesScheduler)
        if config.interval == "step" and not ours and not config.reduce_on_plateau:
            _logger.warning(
                "%s counts steps, and a growing batch takes fewer of them than planned: it will "
                "not reach its end. Way out: adaptive.lr_scheduler(scheduler, samples_per_step)",
                type(config.scheduler).__name__,
            )
