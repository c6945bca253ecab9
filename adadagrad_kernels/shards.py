"""Parameters of which a process holds a part: DTensors, by ``fully_shard`` or a parallel plan.

Nothing here imports the modules of torch that make them, which take long: where they are not
loaded, no parameter is one.
"""

from __future__ import annotations

import math
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


def added_up(gradient: Tensor, placements: Any) -> Tensor:
    """A gradient in these placements: what several ranks hold parts of a sum of is added up.

    All ranks of its mesh must be here.
    """
    given: Any = gradient
    if not is_sharded(gradient) or tuple(given.placements) == tuple(placements):
        return gradient
    added: Tensor = given.redistribute(placements=placements)
    return added


class ShardedParameters(Mapping[str, nn.Parameter]):
    """The parameters of a model that a mesh of ranks holds together, by name.

    ``fully_shard`` shares out over ranks with samples of their own; in the forward pass its modules
    hold others in their place, which are whole. These are its own, with the gradients that an
    optimizer sees. A tensor-parallel plan shares out over ranks with the same samples, on the last
    dimension of the mesh.

    Args:
        source: of statistics, for messages.
        model: whose parameters they are.

    Attributes:
        mesh: of all processes that hold a part of them.
        modules: that ``fully_shard`` was called on.
        is_planned: whether a tensor-parallel plan is among what shares them out.
        same_samples: number of ranks that have the same samples; 1 without a plan.

    Raises:
        UnsupportedModelError: naming the parameter that is sharded otherwise, or not at all.
    """

    def __init__(self, source: str, model: nn.Module) -> None:
        self.modules: list[Any] = fully_sharded_modules(model)
        # A forward pass without a backward pass leaves whole parameters behind.
        reshard(self.modules)
        self._by_name = {n: p for n, p in model.named_parameters() if p.requires_grad}
        managed = {id(p) for module in self.modules for p in module.parameters()}
        sharded: list[Any] = [p for p in self._by_name.values() if is_sharded(p)]
        for name, parameter in self._by_name.items():
            if self.modules and (id(parameter) not in managed or not is_sharded(parameter)):
                raise UnsupportedModelError(
                    f"the parameter '{name}' is a {type(parameter).__name__} that fully_shard "
                    f"does not reduce, and {source} needs the gradient of all ranks. Ways out: "
                    "fully_shard(model) around all of the model; freeze it; or "
                    "DistributedDataParallel, if the model fits"
                )
        largest = max(sharded, key=lambda p: p.device_mesh.ndim)
        self.mesh: Any = largest.device_mesh
        #: Dimensions of the mesh whose ranks have samples of their own.
        self._data = 0
        if self.modules:
            replicas = self.mesh.ndim > 1 and largest.placements[0].is_replicate()
            self._data = 2 if replicas else 1
        for name, parameter in self._by_name.items():
            self._require_known_mesh(source, name, parameter)
        sizes = [self.mesh.size(place) for place in range(self.mesh.ndim)]
        self.is_planned: bool = self.mesh.ndim > self._data
        self.same_samples: int = math.prod(sizes[self._data :])

    def _require_known_mesh(self, source: str, name: str, parameter: Any) -> None:
        if not is_sharded(parameter):
            return
        mesh, placements = parameter.device_mesh, parameter.placements
        whole_mesh = mesh == self.mesh and mesh.ndim <= self._data + 1
        # What a plan leaves alone is shared out by fully_shard over its ranks only.
        part_of_mesh = self.modules and mesh.ndim == self._data < self.mesh.ndim
        if not (whole_mesh or part_of_mesh) or any(p.is_partial() for p in placements):
            raise UnsupportedModelError(
                f"the parameter '{name}' is a DTensor with the placements {tuple(placements)} on "
                f"{mesh}; {source} takes those of fully_shard, on a mesh [shard] or [replicate, "
                "shard], and of a tensor-parallel plan on one further dimension, the last. Way "
                "out: one mesh for all of the model; or DistributedDataParallel, if the model fits"
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

    def copies(self, tensor: Tensor) -> int:
        """How many of all ranks hold the same part of a tensor."""
        given: Any = tensor
        if not is_sharded(tensor):
            return int(self.mesh.size())
        beyond = self.mesh.size() // given.device_mesh.size()
        return copies(tensor) * int(beyond)

    @property
    def place(self) -> int:
        """Which part of them this process holds, the same number on its replicas."""
        at = self.mesh.get_coordinate()
        number = 0
        for dimension in range(1 if self._data == 2 else 0, self.mesh.ndim):
            number = number * int(self.mesh.size(dimension)) + int(at[dimension])
        return number

    def over_data(self, parameter: Tensor) -> tuple[list[Any], list[Any]]:
        """How ``fully_shard`` has shared out a parameter.

        Returns:
            The groups of the ranks with samples of their own, and their placements.
        """
        given: Any = parameter
        count = min(self._data, len(getattr(given, "placements", ())))
        groups = [given.device_mesh.get_group(place) for place in range(count)]
        return groups, list(given.placements[:count]) if count else []
