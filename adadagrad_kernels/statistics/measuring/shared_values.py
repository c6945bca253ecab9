"""Splits the gradients of values that all samples share, such as looked-up positions.

The gradient of a shared value arrives summed over the samples. The sum is taken by a node of the
graph: the one where the value meets the samples, by broadcasting, by ``expand``, in a matrix
product. So before the backward pass the graph is walked from the model's outputs to these nodes,
and each gets a hook that sees the gradient of its output, in which the samples are still separate.
What the node and those between it and the shared value make of a sample's part is that sample's
share. These nodes are linear, and run for one sample at a time unless a closed form is known.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.statistics.measuring.sample_places import (
    Node,
    Place,
    is_doubtful,
    meets,
    shape_of,
)


@dataclass(eq=False)
class SharedValues:
    """Shares of the samples in the gradients of shared values, by the node behind each.

    Attributes:
        samples: of the micro-batch.
        shares: what is known so far, by node and output.
        doubtful: whether it is unclear if a value met the samples, so that no share is certain.
    """

    samples: int
    shares: dict[Node, dict[int, Tensor]] = field(default_factory=dict)
    doubtful: bool = False
    # Hooks find their node here: a node that its own hook refers to would never be freed.
    _hooked: list[Node] = field(default_factory=list)

    def share_of(self, node: Node, output: int = 0) -> Tensor | None:
        """The shares in the gradient of a node's output, ``[samples, *shape]``, if known."""
        return None if self.doubtful else self.shares.get(node, {}).get(output)

    def forget(self) -> None:
        """Let go of the graph."""
        self.shares.clear()
        self._hooked.clear()

    def follow(
        self,
        outputs: Sequence[Tensor],
        nodes: Sequence[Node],
        measured: Callable[[Node], bool],
        passes: type,
    ) -> None:
        """Find what shared values meet, before the backward pass.

        Args:
            outputs: of the model.
            nodes: behind the shared values.
            measured: whether a node is behind the output of a measured layer.
            passes: the type of nodes that hand their gradient to their first input as it is.
        """
        consumers = _consumers(outputs)
        shared, todo = set(nodes), list(nodes)
        meetings: dict[Node, list[tuple[int, Node, int, Place]]] = defaultdict(list)

        def has_samples(node: Node) -> bool:
            """Whether a layer whose output has samples is behind a value."""
            below, seen = [node], {node}
            while below:
                each = below.pop()
                if each is None or each in shared:
                    continue
                if measured(each):
                    return True
                below += [child for child, _ in each.next_functions if child not in seen]
                seen.update(child for child, _ in each.next_functions)
            return False

        def certain(node: Node, slot: int) -> bool:
            """Whether another input of a node has samples."""
            others = [child for i, (child, _) in enumerate(node.next_functions) if i != slot]
            return any(child is not None and has_samples(child) for child in others)

        def meets_later(node: Node) -> bool:
            """Whether a value meets samples further on, by growing along them."""
            below, seen = [node], {node}
            while below:
                each = below.pop()
                for consumer, slot, output in consumers.get(each, ()):
                    if certain(consumer, slot):
                        given = shape_of(each, output)
                        args = (consumer, slot, given, self.samples, has_samples, passes)
                        if meets(*args) is not None:
                            return True
                    elif consumer not in seen:
                        seen.add(consumer)
                        below.append(consumer)
            return False

        while todo:
            node = todo.pop()
            for consumer, slot, output in consumers.get(node, ()):
                shape = shape_of(node, output)
                self.doubtful |= is_doubtful(consumer, shape, self.samples)
                place = meets(consumer, slot, shape, self.samples, has_samples, passes)
                if place is not None and not certain(consumer, slot) and meets_later(consumer):
                    place = None  # it grew along something else that is as long
                if place is not None:
                    meetings[consumer].append((slot, node, output, place))
                elif consumer not in shared:
                    shared.add(consumer)
                    todo.append(consumer)
        for node, met in meetings.items():
            self._hook(node, SharedValues._meet, met)
        for node in shared:
            children = [
                (slot, child, output)
                for slot, (child, output) in enumerate(node.next_functions)
                if child in shared
            ]
            if children:
                hand_on = SharedValues._pass if isinstance(node, passes) else SharedValues._hand_on
                self._hook(node, hand_on, children)

    def _hook(self, node: Node, action: Callable[..., None], known: Sequence[Any]) -> None:
        place, weak = len(self._hooked), weakref.ref(self)
        self._hooked.append(node)

        def hook(grads: tuple[Tensor, ...]) -> None:
            values = weak()
            if values is not None and place < len(values._hooked):
                with torch.no_grad():
                    action(values, values._hooked[place], known, grads)

        node.register_prehook(hook)

    def _add(self, node: Node, output: int, share: Tensor) -> None:
        known = self.shares.setdefault(node, {})
        before = known.get(output)
        known[output] = share if before is None else before + share

    def _meet(
        self, node: Node, met: Sequence[tuple[int, Node, int, Place]], grads: tuple[Tensor, ...]
    ) -> None:
        """Where shared values meet the samples: a sample's share is that of its part."""
        for slot, child, output, place in met:
            shape = shape_of(child, output)
            share = _closed_form_share(node, slot, grads[0], shape, place)
            if share is None:
                given = _filled(node, grads)
                rows = [node(*(place.only(g, i) for g in given)) for i in range(self.samples)]
                share = torch.stack([_as_engine_passes(row, slot, child, output) for row in rows])
            self._add(child, output, share)

    def _hand_on(
        self, node: Node, children: Sequence[tuple[int, Node, int]], grads: tuple[Tensor, ...]
    ) -> None:
        """Between shared values: what the node makes of each sample's share."""
        known = self.shares.get(node)
        if known is None:
            return
        rows = []
        for i in range(self.samples):
            given = [
                known[place][i] if place in known else _zeros(node, place)
                for place in range(len(node._input_metadata))
            ]
            rows.append(node(*given))
        for slot, child, output in children:
            shares = [_as_engine_passes(row, slot, child, output) for row in rows]
            self._add(child, output, torch.stack(shares))

    def _pass(
        self, node: Node, children: Sequence[tuple[int, Node, int]], grads: tuple[Tensor, ...]
    ) -> None:
        """A node that measures: its own share is that of its input."""
        known = self.shares.get(node, {}).get(0)
        if known is not None:
            _, child, output = children[0]
            self._add(child, output, known)


def _consumers(outputs: Sequence[Tensor]) -> dict[Node, list[tuple[Node, int, int]]]:
    """For every node of a graph: who uses it, as which input, and which of its outputs."""
    found: dict[Node, list[tuple[Node, int, int]]] = defaultdict(list)
    todo = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        for slot, (child, output) in enumerate(node.next_functions):
            if child is None:
                continue
            found[child].append((node, slot, output))
            if child not in seen:
                seen.add(child)
                todo.append(child)
    return found


def _closed_form_share(
    node: Node, slot: int, grad: Tensor, shape: torch.Size, place: Place
) -> Tensor | None:
    """Shares in the gradient of one input, for the commonest nodes."""
    kind = node.name()
    if kind == "AddBackward0":
        grad = grad * node._saved_alpha if slot == 1 and node._saved_alpha != 1 else grad
    elif kind == "SubBackward0":
        grad = grad * -node._saved_alpha if slot == 1 else grad
    elif kind == "MulBackward0":
        other = node._saved_other if slot == 0 else node._saved_self
        if other is None or other.is_complex():
            return None
        grad = grad * other
    elif kind != "ExpandBackward0":
        return None
    if place.each != 1:
        return None
    # [samples, ...]: what was broadcast otherwise is summed.
    padded = list((1,) * (grad.dim() - len(shape)) + tuple(shape))
    del padded[place.dimension]
    grad = grad.movedim(place.dimension, 0)
    summed = [
        dimension
        for dimension, size in enumerate(padded, start=1)
        if size == 1 and grad.shape[dimension] != 1
    ]
    if summed:
        grad = grad.sum(summed, keepdim=True)
    return grad.reshape(len(grad), *shape)


def _filled(node: Node, grads: tuple[Tensor | None, ...]) -> list[Tensor]:
    return [_zeros(node, i) if grad is None else grad for i, grad in enumerate(grads)]


def _zeros(node: Node, place: int) -> Tensor:
    metadata = node._input_metadata[place]
    return torch.zeros(metadata.shape, dtype=metadata.dtype, device=metadata.device)


def _as_engine_passes(
    gradients: Tensor | tuple[Tensor, ...], slot: int, child: Node, output: int
) -> Tensor:
    """What the engine makes of what a node gives: in the shape and type of its input."""
    grad = gradients if isinstance(gradients, Tensor) else gradients[slot]
    metadata = child._input_metadata[output]
    return grad.sum_to_size(tuple(metadata.shape)).to(metadata.dtype)
