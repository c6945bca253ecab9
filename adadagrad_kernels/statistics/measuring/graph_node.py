"""How a use takes part in the backward pass: by a node of its own in the graph, or by a hook.

The node computes the parameters' gradient instead of autograd, for which the layer runs on detached
parameters. Statistics and gradient come out of one pass, and nothing is computed twice. The hook
only listens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Use

#: Called with a use that has what it saved and its gradient; returns those of weight and bias.
Replacement = Callable[[LayerUse], tuple[Tensor | None, Tensor | None]]
#: The same, where autograd computes the gradient.
Observation = Callable[[Use], None]


def replace_gradient(
    arrival: Replacement, use: LayerUse, output: Tensor, saved: Sequence[Tensor]
) -> Tensor:
    """``output`` with a node behind it that gives the use's parameters their gradient."""
    weight = use.weight.value if use.weight is not None else None
    bias = use.bias.value if use.bias is not None else None
    tapped: Tensor = _Tap.apply(arrival, use, output, weight, bias, *saved)  # type: ignore[no-untyped-call]
    return tapped


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        arrival: Replacement,
        use: LayerUse,
        output: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *saved: Tensor,
    ) -> Tensor:
        ctx.arrival, ctx.use = arrival, use
        ctx.save_for_backward(*saved)
        # The same memory as a tensor of its own: as a view it could not be changed in place, which
        # ReLU(inplace=True) does, and the layers in question do not need their output again.
        return output.data

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        use = ctx.use
        if torch.is_grad_enabled():
            raise UnsupportedModelError(
                f"{use.layer} was asked for a gradient that can be differentiated again "
                "(create_graph=True), as for a gradient penalty, whose gradient belongs to no "
                "sample. Way out: compute the penalty, forward and backward pass, outside of "
                "the context, after statistics(); it adds up in .grad"
            )
        try:
            saved = ctx.saved_tensors
        except RuntimeError as error:
            raise RuntimeError(
                f"{use.layer}: {error}\nThe layer keeps its inputs for its backward pass. Use the "
                "out-of-place form of what changes them, and run backward once for each forward"
            ) from error
        use.arrivals += 1
        use.saved, use.grads[0] = saved, grads[0]
        return (None, None, grads[0], *ctx.arrival(use), *(None for _ in saved))


#: The type of the nodes that ``replace_gradient`` makes; their first input gets their gradient.
TAP: type = _Tap._backward_cls


def listen(
    arrival: Observation, use: Use, outputs: Sequence[Tensor], saved: Sequence[Tensor]
) -> None:
    """Report the gradients of its outputs to the use; the graph stays as it is."""
    kept = [tensor.detach() for tensor in saved]
    versions = [tensor._version for tensor in saved]
    heard = [0] * len(outputs)

    def hear(place: int, grad: Tensor) -> None:
        use.changed_in_place |= [tensor._version for tensor in kept] != versions
        heard[place] += 1
        use.arrivals = max(heard)
        use.saved, use.grads[place] = kept, grad
        arrival(use)

    for place, output in enumerate(outputs):
        if output.requires_grad:
            output.register_hook(lambda grad, place=place: hear(place, grad))  # type: ignore[no-untyped-call]
