"""A backend of GPU tensors for tests that make CPU tensors: the same cases, on a real device.

Every tensor's whole storage goes to the device and comes back after the call, so that offsets,
strides, alignment and what lies around a tensor are the same there, and a stray write shows.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version


class OnDevice:
    """Runs a backend's functions on copies on ``device``."""

    def __init__(self, backend: ModuleType, device: torch.device) -> None:
        self._backend = backend
        self._device = device

    def unavailable(self) -> str | None:
        return self._backend.unavailable()

    def refuses(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return self._backend.refuses(self._device, dtype)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._backend, name)

        def run(*arguments: Any) -> Any:
            copies = _Copies(self._device)
            result = function(*(copies.to_device(argument) for argument in arguments))
            copies.bring_back()
            return copies.to_host(result)

        return run


class _Copies:
    """The storages of one call on both sides."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.storages: dict[int, tuple[Tensor, Tensor]] = {}
        self.tensors: list[tuple[Tensor, Tensor, int]] = []

    def to_device(self, argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return _as(argument, [self.to_device(item) for item in argument])
        if not isinstance(argument, Tensor):
            return argument
        storage = argument.untyped_storage()
        if storage.data_ptr() not in self.storages or not storage.nbytes():
            here = torch.empty(0, dtype=torch.uint8).set_(storage)
            self.storages[storage.data_ptr()] = (here, here.to(self.device))
        there = self.storages[storage.data_ptr()][1]
        copy = torch.empty(0, dtype=argument.dtype, device=self.device).set_(
            there.untyped_storage(),
            argument.storage_offset(),
            argument.shape,
            argument.stride(),
        )
        self.tensors.append((argument, copy, copy._version))
        return copy

    def bring_back(self) -> None:
        for here, there in self.storages.values():
            here.untyped_storage().copy_(there.untyped_storage())
        for argument, copy, version in self.tensors:
            if copy._version != version:
                increment_version([argument])

    def to_host(self, result: Any) -> Any:
        if isinstance(result, Tensor):
            return result.cpu()
        return _as(result, list(map(self.to_host, result))) if isinstance(result, tuple) else result


def _as(given: Any, items: list[Any]) -> Any:
    """The items as one of the records that ops take and give, or in a list."""
    return type(given)(*items) if hasattr(given, "_fields") else items
