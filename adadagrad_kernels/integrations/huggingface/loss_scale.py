"""What a loss is a mean over: all items of a step, or the samples of its own micro-batch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from adadagrad_kernels import ranks
from adadagrad_kernels.integrations.huggingface.parts import Parts
from adadagrad_kernels.statistics.randomness import RandomState

#: Of the label of a token that the loss leaves out.
_IGNORED = -100


def takes_items(
    trainer: Any, compute_loss: Callable[..., Any], model: nn.Module, step: Parts, items: Any
) -> bool | None:
    """Whether a loss is divided by ``num_items_in_batch``, as the Trainer believes of its model.

    Many models accept the number and ignore it. So the loss of a micro-batch is computed for the
    number and for twice the number: it halves, or stays. All ranks call this in the same step.
    A loss of 0, where no label counts, says nothing, and the next micro-batch is asked.

    Args:
        trainer: whose loss it is.
        compute_loss: its own.
        model: in the wrapper.
        step: whose micro-batches are asked about.
        items: of the step, over all ranks.

    Returns:
        None if all losses are 0.

    Raises:
        ValueError: for a loss that does neither, and for ranks that count their own items alone.
    """
    found: bool | None = trainer.loss_is_scaled_for_ga
    if found is None:
        for inputs in step.inputs:  # all ranks have equally many
            once, twice = _losses(trainer, compute_loss, model, inputs, items)
            if once != 0.0:
                break
        else:
            return None
        found = abs(2.0 * twice / once - 1.0) < 0.05
        if not found and not abs(twice / once - 1.0) < 0.05:
            raise ValueError(
                f"the loss of {type(trainer.model).__name__} is {once:.6g} for num_items_in_batch="
                f"{float(items):g} and {twice:.6g} for twice as many: neither half of it, as a "
                "mean over the items of the step, nor the same, as a mean over the samples of a "
                "micro-batch. Way out: a compute_loss_func(outputs, labels, num_items_in_batch) "
                "that returns a sum divided by num_items_in_batch"
            )
    if found and trainer.args.world_size > 1 and not trainer.args.average_tokens_across_devices:
        raise ValueError(
            "average_tokens_across_devices=False lets every rank divide by its own items, so "
            "ranks with fewer would count more; leave it True"
        )
    return found


def require_own_means(trainer: Any, step: Parts) -> None:
    """Refuse a mean over tokens of which samples have unequally many.

    Raises:
        ValueError: with the way out.
    """
    for part in step.inputs:
        labels = part.get("labels") if hasattr(part, "get") else None
        if isinstance(labels, Tensor) and labels.dim() > 1 and bool((labels == _IGNORED).any()):
            raise ValueError(
                f"the loss of {type(trainer.model).__name__} is a mean over the labels of a micro-"
                f"batch and ignores num_items_in_batch, but some labels are {_IGNORED} and do not "
                "count: the gradient would depend on how the batch is cut. Way out: a "
                "compute_loss_func(outputs, labels, num_items_in_batch) that returns a sum "
                "divided by num_items_in_batch"
            )


@contextlib.contextmanager
def unlogged(trainer: Any) -> Iterator[None]:
    """Forget what trl's trainers note of a loss, which they would log."""
    noted = copy.deepcopy(getattr(trainer, "_metrics", None))
    try:
        yield
    finally:
        if noted is not None:
            trainer._metrics = noted


def _losses(
    trainer: Any, compute_loss: Callable[..., Any], model: nn.Module, given: Any, items: Any
) -> list[float]:
    inputs = send_to_device(given, trainer.args.device)
    state = RandomState(trainer.args.device)
    model.eval()  # without dropout; a training step turns it back
    found = []
    with torch.no_grad(), unlogged(trainer):
        for factor in (1, 2):
            # A copy: the Trainer takes the labels out of what it is given.
            loss = compute_loss(model, copy.copy(inputs), num_items_in_batch=factor * items)
            found.append(float(loss))
    state.restore()
    if ranks.world_size() == 1:
        return found
    everyone = ranks.Ranks()
    rows = everyone.gather(found, everyone.device)
    return [sum(losses) for losses in zip(*rows, strict=True)]
