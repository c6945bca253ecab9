"""Whether a library of trainers trains with all processes that torch.distributed runs."""

from __future__ import annotations

from torch import nn

from adadagrad_kernels import ranks
from adadagrad_kernels.wrappers import unwrapped


def require_all_processes(who: str, processes: int, way_out: str) -> None:
    """Refuse a trainer that does not know of the other processes.

    Args:
        who: trains.
        processes: with how many.
        way_out: to train with all of them.

    Raises:
        ValueError: with both numbers.
    """
    if processes != ranks.world_size():
        raise ValueError(
            f"torch.distributed runs with {ranks.world_size()} processes, but {who} trains with "
            f"{processes}: each would train a model of its own. Way out: {way_out}"
        )


def require_wrapper(model: nn.Module, way_out: str) -> None:
    """Refuse a model whose gradients nothing reduces, also where nothing of them is measured.

    Raises:
        ValueError: saying how it is wrapped.
    """
    if ranks.world_size() > 1 and unwrapped(model)[1] is None:
        raise ValueError(
            f"the model, a {type(model).__name__}, is not in DistributedDataParallel, so each of "
            f"{ranks.world_size()} processes would train one of its own. Way out: {way_out}"
        )
