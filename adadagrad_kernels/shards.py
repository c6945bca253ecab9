"""Parameters of which a process holds a part: DTensors, made by ``fully_shard`` or a plan.

Nothing here imports the modules of torch that make them, which take long: where they are not
loaded, no parameter is one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError


def is_sharded(tensor: Tensor | None) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds, itself; a tensor that is no DTensor."""
    given: Any = tensor
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():  # with grad mode it would be a view
        part: Tensor = given.to_local()
        return part


def whole(tensor: Tensor) -> Tensor:
    """All parts of a DTensor, which its ranks gather together; a tensor that is no DTensor."""
    given: Any = tensor
    full: Tensor = given.full_tensor() if is_sharded(tensor) else tensor
    return full


def copies(tensor: Tensor) -> int:
    """How many processes of its mesh hold the same part."""
    given: Any = tensor
    count = 1
    for place, placement in enumerate(getattr(given, "placements", ())):
        count *= given.device_mesh.size(place) if placement.is_replicate() else 1
    return count


def fully_sharded_modules(model: nn.Module) -> list[Any]:
    """The modules that ``fully_shard`` was called on."""
    kind = _fully_sharded()
    return [] if kind is None else [m for m in model.modules() if isinstance(m, kind)]


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Its class, without what ``fully_shard`` adds to it."""
    added = _fully_sharded()
    if added is None or not isinstance(module, added):
        return type(module)
    return next(kind for kind in type(module).__mro__ if not issubclass(kind, added))


def _fully_sharded() -> Any:
    return getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)


def reshard(modules: Iterable[Any]) -> None:
    """Have each module hold its own part again; no rank waits for another."""
    for module in modules:
        module.reshard()


class ShardedParameters(Mapping[str, nn.Parameter]):
    """The parameters of a model that ``fully_shard`` was called on, by name.

    In its forward pass a module holds others in their place, which are whole. These are its own,
    with the gradients that an optimizer sees.

    Args:
        source: of statistics, for messages.
        model: whose parameters they are; all in training are held by ``fully_shard``.

    Attributes:
        mesh: of all processes that hold a part of them.
        modules: that ``fully_shard`` was called on.

    Raises:
        UnsupportedModelError: naming the parameter that is sharded otherwise, or not at all.
    """

    def __init__(self, source: str, model: nn.Module) -> None:
        self.modules = fully_sharded_modules(model)
        # A forward pass without a backward pass leaves whole parameters behind.
        reshard(self.modules)
        self._by_name = {n: p for n, p in model.named_parameters() if p.requires_grad}
        managed = {id(p) for module in self.modules for p in module.parameters()}
        self.mesh: Any = None
        for name, parameter in self._by_name.items():
            placed: Any = parameter
            if id(parameter) not in managed or not is_sharded(parameter):
                raise UnsupportedModelError(
                    f"the parameter '{name}' is a {type(parameter).__name__} that fully_shard "
                    f"does not reduce, and {source} needs the gradient of all ranks. Ways out: "
                    "fully_shard(model) around all of the model; freeze it; or "
                    "DistributedDataParallel, if the model fits"
                )
            self.mesh = placed.device_mesh if self.mesh is None else self.mesh
            if placed.device_mesh != self.mesh or not _is_of_data(placed):
                raise UnsupportedModelError(
                    f"the parameter '{name}' is a DTensor with the placements "
                    f"{tuple(placed.placements)} on {placed.device_mesh}; {source} takes those of "
                    "fully_shard with one mesh for all parameters, [shard] or [replicate, shard]. "
                    "Ways out: fully_shard alone, without a tensor-parallel plan; or "
                    "DistributedDataParallel, if the model fits"
                )

    def __getitem__(self, name: str) -> nn.Parameter:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def reshard(self) -> None:
        """Have the modules hold these again."""
        reshard(self.modules)


def _is_of_data(parameter: Any) -> bool:
    """Whether every rank of its mesh has samples of its own."""
    *others, last = parameter.placements
    cut = last.is_shard() or last.is_replicate()
    return cut and len(others) <= 1 and all(other.is_replicate() for other in others)
