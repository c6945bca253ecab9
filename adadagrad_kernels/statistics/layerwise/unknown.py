"""A module of another kind runs as it is; afterwards it is run again for every sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.layerwise.other import ModuleUse, autocast_of, take_apart
from adadagrad_kernels.statistics.layerwise.recorder import Recorder
from adadagrad_kernels.statistics.layerwise.rules import Layer


def call_module(recorder: Recorder, layer: Layer, *args: Any, **kwargs: Any) -> Any:
    """Run a module and listen to the gradients of its outputs.

    Raises:
        UnsupportedModelError: where it draws random numbers, which cannot be drawn again for a
            sample alone, or has outputs without samples.
    """
    own = {name: value for name, value in layer.own.items() if value.requires_grad}
    if not own:
        return layer.forward(*args, **kwargs)
    arguments, tensors, structure = take_apart(args, kwargs)
    use = ModuleUse(
        layer.name,
        module=layer.module,
        own=own,
        arguments=arguments,
        structure=structure,
        plain=recorder.paused,
        cast=autocast_of(next(iter(layer.own.values())).device.type),
    )
    if not recorder.called(use):
        return layer.forward(*args, **kwargs)
    before = torch.get_rng_state()
    result = layer.forward(*args, **kwargs)
    if not torch.equal(before, torch.get_rng_state()):
        raise UnsupportedModelError(
            f"{layer.name} has parameters of its own ({', '.join(layer.own)}) and draws random "
            "numbers, which it would draw anew when it is run again for every sample. Ways out: "
            "move the dropout, or the parameters, into a module of their own; or measure with "
            "PerSampleGradients"
        )
    leaves, form = tree_flatten(result)
    outputs = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    if not outputs:
        return result
    for place in outputs:
        rows = len(leaves[place]) if leaves[place].dim() else 0
        samples = recorder.samples_of(use, max(rows, 1)) if rows != 0 else 0
        if rows == 0:
            raise UnsupportedModelError(
                f"{layer.name} has parameters of its own ({', '.join(layer.own)}) and an output "
                "without samples, such as a loss. Ways out: move the parameters into a module of "
                "their own; or measure with PerSampleGradients"
            )
        if rows != samples:
            leaves[place] = leaves[place].expand(samples, *leaves[place].shape[1:])
    use.outputs = outputs
    use.batch_size = samples
    recorder.observe(use, [leaves[place] for place in outputs], tensors)
    return tree_unflatten(leaves, form)
