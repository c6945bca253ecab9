"""Layers whose outputs all samples share, until their gradients are split among the samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.statistics.contents import Contents
from adadagrad_kernels.statistics.measuring.graph_node import TAP
from adadagrad_kernels.statistics.measuring.shared_values import SharedValues
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Use

#: How far contributions may be from the gradient that autograd computed, relative to it.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
#: The same in other types, and under autocast: bfloat16 has eight bits.
COARSE_TOLERANCE = 2e-2


class SharedUses:
    """Those of one micro-batch."""

    def __init__(self) -> None:
        self._waiting: list[Use] = []
        self._listening: set[Any] = set()
        self._values: SharedValues | None = None
        #: Layers, and whether the samples' shares fail to add up to the gradient of their output.
        self.incomplete: list[tuple[str, Tensor]] = []

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

        outputs = [tensor for tensor in Contents.of(result).tensors if tensor.requires_grad]
        self._values.follow(outputs, list(nodes), measured, TAP)

    def assign_shares(self, use: Use, samples: int) -> bool:
        """Give the use the samples' shares in the gradient of its output, where they are known.

        Its inputs get a dimension for the samples too.
        """
        share = None if self._values is None else self._values.share_of(use.node)
        if samples == 1:
            share = use.grads[0].unsqueeze(0)
        if share is None:
            return False
        self._compare(use, share)
        if isinstance(use, LayerUse):
            if share.shape[1] == 1 and len(use.saved[0]) == 1:
                share = share.squeeze(1)
                use.saved = [t.expand(len(share), *t.shape[1:]) for t in use.saved]
            else:
                use.saved = [t.expand(len(share), *t.shape) for t in use.saved]
        use.grads[0] = share
        return True

    def _compare(self, use: Use, share: Tensor) -> None:
        """Note whether the shares add up to the whole gradient, up to rounding."""
        whole = use.grads[0]
        if whole.shape != share.shape[1:]:
            return
        error = torch.linalg.vector_norm(share.sum(0, dtype=torch.float64) - whole.double())
        scale = torch.linalg.vector_norm(share.double())
        coarse = use.micro_batch.autocast or whole.dtype not in TOLERANCE
        allowed = COARSE_TOLERANCE if coarse else TOLERANCE[whole.dtype]
        self.incomplete.append((use.layer, error > allowed * scale))

    def forget(self) -> None:
        """Let go of the graph."""
        self._waiting, self._listening = [], set()
        if self._values is not None:
            self._values.forget()
