"""Which modules of a model are measured, where not all of them are."""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import nn

from adadagrad_kernels.statistics.layers.norm import find
from adadagrad_kernels.statistics.layers.registry import Layer


def is_normalization(module: nn.Module) -> bool:
    """Whether a module is a LayerNorm, RMSNorm or GroupNorm, or computes as one.

    In transformers the noise scale of these layers alone follows that of the whole model (Gray,
    Tiwari, Bergsma, Hestness, arXiv 2411.00999): ``layer_statistics(model, only=is_normalization)``
    measures it.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.statistics import is_normalization
        >>> [is_normalization(module) for module in (torch.nn.RMSNorm(3), torch.nn.Linear(3, 3))]
        [True, False]
    """
    return find(module) is not None


def selected_layers(layers: Iterable[Layer], chosen: Container[int]) -> list[Layer]:
    """Those of the chosen modules.

    Raises:
        ValueError: for none, for a part of what is measured as a whole, and for parameters that
            others have too, whose samples would count in part.
    """
    found, others = [], {}
    for layer in layers:
        if id(layer.module) in chosen:
            found.append(layer)
        else:
            _require_no_part(layer, chosen)
            others.update({id(p): layer.name for p in layer.own.values()})
    if not found:
        kinds = sorted(set(others.values())) or ["none"]
        raise ValueError(
            f"only= selects no layer with parameters in training; this model has {_few(kinds)}"
        )
    for layer in found:
        for name, parameter in layer.own.items():
            if id(parameter) in others:
                raise ValueError(
                    f"only= selects {layer.name} and not {others[id(parameter)]}, which has the "
                    f"same parameter ('{name}'): select both, or neither"
                )
    return found


def _require_no_part(layer: Layer, chosen: Container[int]) -> None:
    own = {id(p) for p in layer.own.values()}
    for path, part in layer.module.named_modules():
        if id(part) in chosen and any(id(p) in own for p in part.parameters(recurse=False)):
            raise ValueError(
                f"only= selects '{path}' of {layer.name}, which is measured as a whole: select "
                f"{type(layer.module).__name__} too, or not its parts"
            )


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
