"""Whose samples a source covers, by the model's wrapper and by what its user asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.ranks import Ranks, require_no_stages, world_size

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def unwrapped(model: nn.Module) -> tuple[nn.Module, DistributedDataParallel | None]:
    """The module inside all wrappers, and the wrapper that reduces its gradients."""
    wrapper: DistributedDataParallel | None = None
    inside: Any = model
    while inside is not None:
        model = inside
        wrapper = model if isinstance(model, DistributedDataParallel) else wrapper
        # A compiled module runs the forwards of the module it was compiled from.
        inside = getattr(model, "_orig_mod", None)
        if isinstance(model, DistributedDataParallel):
            inside = model.module
    return model, wrapper


def ranks_of_mesh(
    ranks: str | ProcessGroup | Ranks, mesh: Any, source: str, *, is_alone: bool
) -> Ranks:
    """The ranks that hold the parts of sharded parameters, and share the batch.

    Args:
        ranks: what the user asked for.
        mesh: of the parameters.
        source: its name, for messages.
        is_alone: whether the ranks of a mesh of one dimension share a batch of their own.

    Raises:
        ValueError: for the samples of one rank alone, and for ranks other than those of the mesh.
    """
    if isinstance(ranks, str) and ranks == "local":
        raise ValueError(
            f"ranks='local' was given to {source} for a model whose parameters are sharded over "
            f"{mesh.size()} ranks, none of which has a gradient of its own; accepted are 'auto', a "
            "process group or Ranks"
        )
    if isinstance(ranks, str) and ranks == "auto":
        if not (is_alone and mesh.ndim == 1) and mesh.size() != world_size():
            raise ValueError(
                f"the parameters are sharded over {mesh.size()} of {world_size()} ranks, on a mesh "
                f"of {mesh.ndim} dimensions; pass ranks=group to {source}, with a process group of "
                "just those ranks, if no others train the same model"
            )
        return Ranks(mesh.get_group() if mesh.ndim == 1 else None)
    if isinstance(ranks, Ranks) and ranks.pipeline is not None:
        found = ranks
        if ranks.data is None and mesh.ndim == 1:
            found = replace(ranks, data=mesh.get_group())
    else:
        found = resolved(ranks, None, source) or Ranks()
    if found.size != mesh.size():
        raise ValueError(
            f"ranks= has {found.size} processes, and the parameters are sharded over "
            f"{mesh.size()}; accepted are just those of the parameters' mesh"
        )
    return found


def ranks_of_stage(ranks: Ranks, wrapper: DistributedDataParallel | None, source: str) -> Ranks:
    """The ranks of a pipeline whose parameters are not sharded.

    Args:
        ranks: what the user asked for, with a pipeline.
        wrapper: what reduces the stage's gradients.
        source: its name, for messages.

    Raises:
        ValueError: where nothing tells which processes have the same stage.
    """
    if ranks.data is not None:
        return ranks
    if wrapper is not None:
        return replace(ranks, data=wrapper.process_group)
    count = dist.get_world_size(ranks.pipeline)
    if count != world_size():
        raise ValueError(
            f"the group pipeline has {count} of {world_size()} processes, and nothing tells "
            f"{source} which of the others have the same stage. Way out: "
            "Ranks(data=group, pipeline=group), with the processes that share the batch, such as "
            "mesh['data'].get_group(); a group of this process alone, if there is only one pipeline"
        )
    return ranks


def require_whole_parameters(source: str, model: nn.Module) -> None:
    """Refuse parameters of which this process holds only a part.

    Raises:
        UnsupportedModelError: naming one.
    """
    require_no_partitions(source, model)
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "to_local"):
            raise UnsupportedModelError(
                f"the parameter '{name}' is a {type(parameter).__name__}, of which this process "
                f"holds only a part (fully_shard, or a tensor-parallel plan), and {source} reads "
                "whole gradients. Ways out: layer_statistics, which measures models of "
                "fully_shard and of plans; DistributedDataParallel, if the model fits"
            )


def require_no_partitions(source: str, model: nn.Module) -> None:
    """Refuse DeepSpeed's ZeRO stage 3, whose parameters are whole in their own layer's pass alone.

    Raises:
        UnsupportedModelError: naming one.
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_tensor"):
            raise UnsupportedModelError(
                f"the parameter '{name}' is one of DeepSpeed's ZeRO stage 3, of which this process "
                f"holds only a part between the passes of its layer, and {source} reads whole "
                "parameters and gradients. Ways out: ZeRO stage 0 or 1 with "
                "layer_statistics(engine.module, ranks='local') and adadagrad_kernels.distributed."
                "pool; fully_shard, which layer_statistics measures; a schedule, which reads no "
                "gradients"
            )


def resolved(
    ranks: str | ProcessGroup | Ranks,
    wrapper: DistributedDataParallel | None,
    source: str,
    ways_out: str | None = None,
) -> Ranks | None:
    """The ranks whose samples a source pools; None for those of this process alone.

    Args:
        ranks: what the user asked for.
        wrapper: what reduces the model's gradients.
        source: its name, for messages.
        ways_out: of one that takes no wrapper.

    Raises:
        ValueError: for a model that nothing reduces, in a world above one; for no such ranks.
    """
    if isinstance(ranks, str) and ranks not in ("auto", "local"):
        raise ValueError(f"ranks must be 'auto', 'local', a process group or Ranks, got {ranks!r}")
    if isinstance(ranks, Ranks):
        require_no_stages(ranks, source)
        return ranks
    if ranks == "local" or world_size() == 1:
        return None
    if ranks != "auto":
        return Ranks(ranks)  # type: ignore[arg-type]
    if wrapper is None:
        ways_out = ways_out or (
            f"pass the wrapper itself, {source}(DistributedDataParallel(model), ...); ranks=group, "
            "if something else reduces .grad in the backward pass; for a stage of a pipeline "
            "layer_statistics(stage_module, ranks=Ranks(pipeline=group))"
        )
        raise ValueError(
            f"torch.distributed runs with {world_size()} ranks, and nothing tells {source} how "
            "they share the batch: it would see the samples of one rank alone, and the ranks would "
            f"decide differently. Ways out: {ways_out}; ranks='local' for the samples of this rank "
            "alone"
        )
    return Ranks(wrapper.process_group)
