"""What stands in for sharded parameters in a forward pass, and whose gradient it gets.

``fully_shard`` gathers a module's parameters before its forward pass. What the layers see are other
parameters, whole, whose gradients autograd knows; they are reduced afterwards, and arrive in
``.grad`` of the sharded ones. Their objects stay from the first forward pass on, their memory goes
with each. Everything that is measured is kept under the sharded parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from adadagrad_kernels.shards import ShardedParameters
from adadagrad_kernels.statistics.measuring.directional import forward_mode

#: The sharded parameter for each that stands in for one, by the identity of the latter.
_owners: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}


def owner_of(value: nn.Parameter) -> nn.Parameter:
    """The parameter of the model for which a layer's parameter stands; mostly itself."""
    known = _owners.get(id(value))
    return value if known is None else known[1]


class StandIns:
    """Those of one model.

    Args:
        parameters: of the model.
        hear: called with parameter, name and gradient as each gradient arrives.
    """

    def __init__(
        self, parameters: ShardedParameters, hear: Callable[[nn.Parameter, str, Tensor], None]
    ) -> None:
        self.parameters = parameters
        self._names = {id(parameter): name for name, parameter in parameters.items()}
        self._hear = hear
        self._found: dict[int, tuple[nn.Parameter, Any]] = {}
        self._along: Mapping[str, Tensor] | None = None

    def see(self, module: nn.Module, own: Mapping[str, nn.Parameter]) -> None:
        """Note what stands in for a layer's parameters, which is about to run.

        Args:
            module: the layer.
            own: its sharded parameters, by their names in it.
        """
        for key, parameter in own.items():
            value = _held(module, key)
            if value is parameter or id(value) in _owners:
                continue
            before = self._found.pop(id(parameter), None)
            if before is not None:
                self._forget(*before)
            name = self._names[id(parameter)]
            # A hook on a sharded parameter would hear nothing.
            handle = value.register_hook(
                lambda grad, parameter=parameter, name=name: self._hear(parameter, name, grad)
            )
            _owners[id(value)] = (value, parameter)
            self._found[id(parameter)] = (value, handle)

    def forget(self) -> None:
        """Take the hooks out again."""
        while self._found:
            self._forget(*self._found.popitem()[1])

    @staticmethod
    def _forget(value: nn.Parameter, handle: Any) -> None:
        handle.remove()
        del _owners[id(value)]

    # Derivatives along a direction.

    @contextmanager
    def along(self, direction: Mapping[str, Tensor]) -> Iterator[None]:
        """A context in which layers run with their parameters' tangents in this direction."""
        self._along = direction
        try:
            yield
        finally:
            self._along = None

    @contextmanager
    def tangents(self, module: nn.Module, own: Mapping[str, nn.Parameter]) -> Iterator[bool]:
        """A context in which a layer runs along the direction, if there is one.

        The direction is sharded as the parameters are, and gathered here: every rank must be here.

        Yields:
            Whether there is one.
        """
        if self._along is None:
            yield False
            return
        make_dual: Any = forward_ad.make_dual
        replaced: list[tuple[dict[str, Any], str, nn.Parameter]] = []
        try:
            for key, parameter in own.items():
                path, _, leaf = key.rpartition(".")
                value, holder = _held(module, key), module.get_submodule(path)
                given: Any = self._along[self._names[id(parameter)]]
                tangent = given.full_tensor().to(value.dtype)
                places: dict[str, Any] = holder._parameters
                replaced.append((places, leaf, value))
                places[leaf] = make_dual(value.detach(), tangent)
            yield True
        finally:
            for places, leaf, value in replaced:
                places[leaf] = value


def _held(module: nn.Module, key: str) -> Any:
    path, _, leaf = key.rpartition(".")
    return getattr(module.get_submodule(path), leaf)


def derivatives(
    stand_ins: StandIns, losses: Callable[[], Tensor], direction: Mapping[str, Tensor]
) -> Tensor:
    """Directional derivatives by forward mode, as ``directional.forward_derivatives`` has them.

    Raises:
        ValueError: for losses that do not depend on the parameters.
        RuntimeError: where a layer has no forward-mode derivative.
    """
    try:
        # Without grad mode, which does not concern forward mode: fully_shard adds no nodes to a
        # graph then, and waits for no backward pass.
        with torch.no_grad(), forward_mode(direction), stand_ins.along(direction):
            values = losses()
            unpack: Any = forward_ad.unpack_dual
            found: Tensor | None = unpack(values).tangent
    finally:
        stand_ins.parameters.reshard()
    if found is None:
        raise ValueError(
            "losses() does not depend on the model's parameters; run the model inside it, and "
            "return the losses of the samples, [samples]"
        )
    return found.detach().double()
