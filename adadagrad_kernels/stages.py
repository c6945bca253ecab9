"""The stages of a pipeline, each of which has the parameters of some of a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Given = TypeVar("Given")


def device_of(group: ProcessGroup | None) -> torch.device:
    """Where the backend of a group takes numbers that are on no device yet."""
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


class Stages:
    """The processes of one pipeline; all of them take part in every call here.

    Args:
        group: whose rank is the number of the stage.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group

    @property
    def count(self) -> int:
        """Number of stages."""
        return dist.get_world_size(self._group)

    @property
    def own(self) -> int:
        """Number of this process's stage; -1 if it has none."""
        return dist.get_rank(self._group)

    def rows(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all stages in their order, of one shape and dtype."""
        every = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(every, tensor.contiguous(), group=self._group)
        return every

    @property
    def device(self) -> torch.device:
        """Where its backend takes tensors."""
        return device_of(self._group)

    def added(self, numbers: Sequence[float]) -> list[float]:
        """The sums over the stages, in one order on all of them."""
        own = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        sums: list[float] = torch.stack(self.rows(own)).sum(0).tolist()
        return sums

    def objects(self, given: Given) -> list[Given]:
        """The objects of all stages in their order, small ones that can be pickled."""
        every: list[Any] = [None] * self.count
        dist.all_gather_object(every, given, group=self._group)
        return every

    def concatenated(self, values: Tensor) -> Tensor:
        """The vectors of all stages in one, which need not have one length."""
        values = values.to(self.device)
        length = torch.tensor([len(values)], device=values.device)
        lengths: list[int] = torch.cat(self.rows(length)).tolist()
        padded = values.new_zeros(max(lengths))
        padded[: len(values)] = values
        parts = zip(self.rows(padded), lengths, strict=True)
        return torch.cat([part[:count] for part, count in parts])
