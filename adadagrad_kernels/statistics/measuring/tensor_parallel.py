"""Layers of a tensor-parallel plan: what this rank's parts of their tensors contribute.

A plan hands a layer DTensors on a mesh of one dimension, whose ranks have the same samples. From
the placements follows what a rank can measure of a parameter: a part of it, whose norms add up over
the ranks; all of it, as the other ranks do too; or, where a layer sees some positions of each
sample alone (sequence parallel), an addend, so that contributions are added before they are
squared.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.shards import added_up, is_sharded, local
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Part


def local_uses(use: LayerUse) -> list[LayerUse]:
    """The use with this rank's parts of its tensors, once for every way in which they add up.

    All ranks of the mesh are here, in their backward pass.

    Raises:
        UnsupportedModelError: for tensors that are shared out by their samples, or otherwise.
    """
    grad: Any = use.grads[0]
    expected = _whole(use.output)
    grad = added_up(grad, expected)
    mesh = grad.device_mesh
    inputs: Any = use.saved[0]
    places = (expected[0], *getattr(inputs, "placements", expected)[:1])
    by_samples = any(place.is_shard(0) for place in places)
    if mesh.ndim != 1 or by_samples or places[1].is_partial():
        raise UnsupportedModelError(_message(use, places))
    found: dict[str, list[Part]] = {}
    for part in use.parts:
        found.setdefault(_kind(use, part, places, grad.dim()), []).append(part)
    uses = []
    for kind, parts in found.items():
        one = copy.copy(use)
        one.weight = use.weight if use.weight in parts else None
        one.bias = use.bias if use.bias in parts else None
        one.saved, one.grads = [local(tensor) for tensor in use.saved], {0: local(grad)}
        one.copies = 1 if kind == "part" else mesh.size()
        one.addends = mesh.get_group() if kind == "addend" else None
        if kind == "part" and one.weight is not None:
            one.see_rows_of(mesh.get_local_rank(), mesh.size(), one.weight.parameter)
        uses.append(one)
    return uses


def _whole(placements: Any) -> list[Any]:
    """Of a gradient, where those of the output may be a sum that is still to be added up."""
    from torch.distributed.tensor import Replicate

    return [Replicate() if place.is_partial() else place for place in placements]


def _kind(use: LayerUse, part: Part, places: tuple[Any, ...], dimensions: int) -> str:
    parameter: Any = part.parameter
    if not is_sharded(parameter):
        raise UnsupportedModelError(_message(use, places))
    output, inputs = places
    if not parameter.placements[-1].is_replicate():
        return "part"
    if output.is_replicate() and inputs.is_replicate():
        return "whole"
    # A bias of what is cut along its inputs: those do not concern it.
    if output.is_replicate() and part is use.bias:
        return "whole"
    if use.folds and output.is_shard() and 0 < output.dim < dimensions - 1:
        return "addend"
    raise UnsupportedModelError(_message(use, places))


def _message(use: LayerUse, places: tuple[Any, ...]) -> str:
    return (
        f"{use.layer} has an output with the placement {places[0]} of an input with {places[1]}, "
        "in which what a rank contributes to its parameters is not known. Accepted are layers of "
        "ColwiseParallel, RowwiseParallel and SequenceParallel, with the batch first and whole on "
        "every rank. Ways out: another plan for the layer; or freeze it"
    )


def shared_addends_message(layer: str) -> str:
    """The message for a parameter that several layers share, if one has addends alone."""
    return (
        f"{layer} shares a parameter with another layer and sees some positions of each sample "
        "alone (sequence parallel), so what a sample contributes to it is not known. Ways out: a "
        "parameter of its own; or another plan for the layer"
    )


def gradient_here(parameter: Tensor, grad: Tensor) -> Tensor:
    """This rank's part of a parameter's gradient, as the parameter is shared out by the plan."""
    if not is_sharded(grad):
        return grad
    given: Any = parameter
    return local(added_up(grad, given.placements[-1:]))
