"""Finds parameters that two stages of a pipeline share, such as a table that is the head too."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from adadagrad_kernels.shards import local
from adadagrad_kernels.stages import Stages

#: Elements of each parameter that are compared.
_FEW = 64


class TiedParameters:
    """Finds parameters of two stages that are one: their values change, and stay equal.

    A sample contributes to such a parameter on both stages, and the square of a sum is not the sum
    of squares. Equal values at first say nothing, since layers are made as copies of each other.
    """

    def __init__(self) -> None:
        self._equal: dict[tuple[str, str], bytes] | None = None

    def require_none(self, parameters: Mapping[str, nn.Parameter], group: Stages) -> None:
        """Compare the stages, unless they have been found to differ.

        Raises:
            ValueError: naming both parameters.
        """
        if self._equal is not None and not self._equal:
            return
        values = {
            name: (tuple(p.shape), str(p.dtype), _few_elements(p))
            for name, p in parameters.items()
            if p.dim() > 1 and p.numel()
        }
        stages = group.objects(values)
        equal: dict[tuple[str, str], bytes] = {}
        for place, one in enumerate(stages):
            for other_place in range(place + 1, len(stages)):
                other = {value: name for name, value in stages[other_place].items()}
                for name, value in one.items():
                    if value in other:
                        names = f"'{name}' of stage {place}"
                        equal[names, f"'{other[value]}' of stage {other_place}"] = value[2]
        before, self._equal = self._equal or {}, equal
        for pair, few in equal.items():
            if pair in before and before[pair] != few:
                raise ValueError(
                    f"the parameters {pair[0]} and {pair[1]} are one: their values have changed "
                    "and are still equal. What a sample contributes to both has to be added before "
                    "it is squared, and no stage knows it. Ways out: a parameter of its own for "
                    "each stage; freeze it; both layers in one stage"
                )


def _few_elements(parameter: Tensor) -> bytes:
    values = local(parameter.detach()).flatten()
    step = max(1, len(values) // _FEW)
    return values[::step][:_FEW].cpu().contiguous().view(torch.uint8).numpy().tobytes()
