"""Training arguments with which a growing batch would go wrong, and what to do instead."""

from __future__ import annotations

from typing import Any

from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.criteria import GradientDiversity, SmallestOf
from adadagrad_kernels.integrations.samples_scheduler import SamplesScheduler

#: Samplers of the Trainer, and whether each shuffles.
_SHUFFLES = {"random": True, "sequential": False}


def shuffles(args: Any) -> bool:
    """Whether the samples are shuffled."""
    return _SHUFFLES[str(args.train_sampling_strategy)]


def require_arguments(args: Any) -> None:
    """Refuse what is not measured, or would lose samples.

    Raises:
        ValueError: naming the argument, its value and the way out.
    """
    for name, accepted, way_out in (
        (
            "gradient_accumulation_steps",
            args.gradient_accumulation_steps == 1,
            "leave it at 1: every batch is cut into micro-batches of per_device_train_batch_size, "
            "as many as its size needs",
        ),
        (
            "auto_find_batch_size",
            not args.auto_find_batch_size,
            "it starts the training over with another size; set per_device_train_batch_size to "
            "what fits, which bounds the memory of every step",
        ),
        (
            "train_sampling_strategy",
            str(args.train_sampling_strategy) in _SHUFFLES,
            "the batches are drawn by an AdaptiveBatchSampler; accepted are 'random' and "
            "'sequential'",
        ),
        (
            "max_steps",
            args.max_steps <= 0,
            "how many steps there will be depends on the sizes; give num_train_epochs, or samples=",
        ),
        (
            "dataloader_drop_last",
            not args.dataloader_drop_last,
            "batches cross the borders of epochs, so there is no short batch to drop",
        ),
        (
            "dataloader_in_order",
            args.dataloader_in_order,
            "micro-batches belong to a batch by their order",
        ),
        (
            "restore_callback_states_from_checkpoint",
            not args.restore_callback_states_from_checkpoint,
            "it would replace the callback of the growing batch by a new one; what that one needs "
            "is restored without it",
        ),
        ("deepspeed", not args.deepspeed, _ONLY_DDP),
        ("fsdp", not args.fsdp, _ONLY_DDP),
        ("parallelism_config", args.parallelism_config is None, _ONLY_DDP),
        ("n_gpu", args.n_gpu <= 1, "start one process for each GPU, with torchrun"),
        *(
            (
                name,
                not 0 < getattr(args, name) < 1,
                "it is a share of a number of steps that is not known; give whole steps",
            )
            for name in ("logging_steps", "eval_steps", "save_steps")
            if getattr(args, name) is not None
        ),
    ):
        if not accepted:
            raise ValueError(
                f"{name}={getattr(args, name)!r} does not go with a batch that grows: {way_out}"
            )


_ONLY_DDP = (
    "gradients are measured in one process, and in several that hold whole models (DDP); leave it "
    "out, if the model fits"
)


def require_bare(model: Any) -> None:
    """Refuse a model in a wrapper of its own, whose arguments the Trainer does not see.

    Raises:
        ValueError: with the way out.
    """
    if isinstance(model, DistributedDataParallel):
        raise ValueError(
            "the model is in DistributedDataParallel, which the Trainer puts around it by itself. "
            "Way out: pass the model"
        )


def require_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler of the user's that counts steps.

    Raises:
        ValueError: saying how to make it count samples.
    """
    if counts_steps(scheduler):
        raise ValueError(
            f"the {type(scheduler).__name__} counts steps, of which a growing batch takes ever "
            "fewer, so it would not reach its end. Way out: optimizers=(optimizer, "
            "SamplesLR(scheduler, samples_per_step)), or (optimizer, None) with lr_scheduler_type"
        )


def require_saved(controller: BatchController, args: Any) -> None:
    """Refuse a criterion whose state is too large for the Trainer's JSON.

    Raises:
        ValueError: with the ways out.
    """
    criterion: Any = controller.criterion
    if isinstance(criterion, SmallestOf):
        criterion = criterion.criterion
    if isinstance(criterion, GradientDiversity) and args.save_strategy != "no":
        raise ValueError(
            "GradientDiversity keeps a gradient as large as the model between steps, which "
            "trainer_state.json of a checkpoint cannot hold. Ways out: save_strategy='no'; a "
            "criterion that keeps numbers, such as NormTest"
        )


def counts_steps(scheduler: Any) -> bool:
    """Whether a scheduler is called once a step, and not with a metric of an evaluation."""
    return isinstance(scheduler, LRScheduler) and not isinstance(
        scheduler, ReduceLROnPlateau | SamplesScheduler
    )
