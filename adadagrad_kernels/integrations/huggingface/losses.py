"""Losses from a model's logits, for trainers that compute theirs where no layer sees it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy


def causal_lm_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    r"""Next-token cross-entropy, as a ``compute_loss_func`` of the Trainer.

    trl's SFTTrainer computes its loss with the weight of the head, and does not call the head, so
    ``layer_statistics`` refuses it. With this function the head runs as a layer, on logits
    ``[samples, tokens, vocabulary]``:

    .. math:: \frac{1}{T} \sum_{i,t} -\log p_{i,t}(y_{i,t+1}),

    over the T labels that are not -100; in float32 or wider.

    Args:
        outputs: of the model, with ``logits``.
        labels: ``[samples, tokens]``; -100 is left out.
        num_items_in_batch: T of the whole step; None: of these samples.
    """
    logits = outputs.logits[:, :-1].flatten(0, 1)
    logits = logits.float() if logits.element_size() < 4 else logits
    targets = labels[:, 1:].flatten().to(logits.device)
    if num_items_in_batch is None:
        mean: Tensor = cross_entropy(logits, targets)
        return mean
    total: Tensor = cross_entropy(logits, targets, reduction="sum") / num_items_in_batch
    return total
