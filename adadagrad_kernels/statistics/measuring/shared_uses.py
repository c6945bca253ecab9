"""Layers whose outputs all samples share, until it is known whose their gradients are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from adadagrad_kernels.statistics.measuring.graph_node import TAP
from adadagrad_kernels.statistics.measuring.shared_values import SharedValues
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Use


class SharedUses:
    """Those of one micro-batch."""

    def __init__(self) -> None:
        self._waiting: list[Use] = []
        self._listening: set[Any] = set()
        self._values: SharedValues | None = None

    def add(self, use: Use, output: Tensor) -> None:
        """Have the graph searched for the samples behind an output without any."""
        use.node = output.grad_fn
        self._waiting.append(use)

    def note(self, outputs: Iterable[Tensor]) -> None:
        """Remember the nodes behind the outputs of a layer that only listens."""
        self._listening.update(o.grad_fn for o in outputs if o.grad_fn is not None)

    def search(self, result: Any, samples: int) -> None:
        """Walk the graph from what the model returned to the outputs that were added."""
        uses, self._waiting = self._waiting, []
        listening, self._listening = self._listening, set()
        if not uses:
            return
        if self._values is None:
            self._values = SharedValues(samples)
        nodes = {use.node for use in uses}

        def measured(node: Any) -> bool:
            return (isinstance(node, TAP) or node in listening) and node not in nodes

        outputs = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
        self._values.follow(outputs, list(nodes), measured, TAP)

    def tell_apart(self, use: Use, samples: int) -> bool:
        """Give the use the samples' shares in the gradient of its output, where they are known.

        Its inputs get a dimension for the samples too. Where shares are not known, all is as if of
        one sample.
        """
        share = None if self._values is None else self._values.take(use.node)
        if samples == 1:
            share = use.grads[0].unsqueeze(0)
        if share is None:
            use.grads = {place: grad.unsqueeze(0) for place, grad in use.grads.items()}
            use.saved = [tensor.unsqueeze(0) for tensor in use.saved]
            return False
        if isinstance(use, LayerUse):
            if share.shape[1] == 1 and len(use.saved[0]) == 1:
                share = share.squeeze(1)
                use.saved = [t.expand(len(share), *t.shape[1:]) for t in use.saved]
            else:
                use.saved = [t.expand(len(share), *t.shape) for t in use.saved]
        use.grads[0] = share
        return True

    def forget(self) -> None:
        """Let go of the graph."""
        self._waiting, self._listening = [], set()
        if self._values is not None:
            self._values.forget()


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors in what a model returned: nested containers, and attributes of objects."""
    leaves = tree_leaves(result)
    inside = [value for leaf in leaves for value in getattr(leaf, "__dict__", {}).values()]
    return [leaf for leaf in (*leaves, *tree_leaves(inside)) if isinstance(leaf, Tensor)]
