"""Ways to catch a step that waits for a device, on a machine that has none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adadagrad_kernels.backends import reference
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.optim import _buckets as buckets_module
from adadagrad_kernels.optim import adagrad as adagrad_module
from adadagrad_kernels.optim import adagrad_norm as norm_module

READS = (
    "item",
    "tolist",
    "nonzero",
    "cpu",
    "numpy",
    "__float__",
    "__int__",
    "__bool__",
    "__index__",
    "__array__",
)

_WAITING = (
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.nonzero,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.equal,
    torch.ops.aten.masked_select,
    torch.ops.aten._unique2,
    torch.ops.aten._coalesce,
)


class WaitsError(Exception):
    """Something would have waited for a device."""


class NoWaiting(TorchDispatchMode):
    """Refuses operators that read values on the host, and copies from one device to another."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func.overloadpacket in _WAITING:
            raise WaitsError(f"{func} reads values")
        if "index" in str(func) and any(leaf.dtype == torch.bool for leaf in given[1:]):
            raise WaitsError(f"{func} by a mask")
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        devices = {str(leaf.device) for leaf in (*given, *made)}
        if len(devices) > 1:
            raise WaitsError(f"{func} between {sorted(devices)}")
        return result


@contextlib.contextmanager
def no_reading() -> Iterator[None]:
    """Neither Python nor torch's operators may read a tensor's values inside."""
    with pytest.MonkeyPatch.context() as patch, NoWaiting():
        for name in READS:

            def refuse(tensor: Tensor, *_: Any, name: str = name) -> Any:
                raise WaitsError(f"Tensor.{name}")

            patch.setattr(Tensor, name, refuse)
        yield


@contextlib.contextmanager
def pretended_cuda() -> Iterator[None]:
    """Tensors on "cuda" that have no values: reading one, or mixing devices, raises.

    The ops, which take real memory only, are replaced by the reference behind them. Lists of
    numbers may be read, as zeros: on the host always, on the device outside of `no_reading`.
    """

    def adagrad(params: Any, grads: Any, sums: Any, rule: AdagradRule) -> Tensor:
        return reference.adagrad_step_(params, grads, sums, _checked(params, rule))

    def norm(params: Any, grads: Any, sums: Any, row_wise: bool, rule: AdagradRule) -> Tensor:
        assert all(total.device == params[0].device for total in sums)
        return reference.adagrad_norm_step_(params, grads, sums, row_wise, _checked(params, rule))

    def zeros(tensor: Tensor) -> list[float]:
        if not tensor.is_cpu and Tensor.tolist is not unguarded:
            raise WaitsError("Tensor.tolist")
        return [0.0] * len(tensor)

    unguarded = Tensor.tolist
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode():
        # The method asks for the device's driver, which need not be there; the operator does not.
        patch.setattr(Tensor, "copy_", lambda ours, other: torch.ops.aten.copy_(ours, other))
        patch.setattr(FakeTensor, "tolist", zeros)
        patch.setattr(buckets_module, "check_updated", lambda *_: None)
        patch.setattr(adagrad_module, "take_step", adagrad)
        patch.setattr(norm_module, "take_step", norm)
        yield


def _checked(params: Sequence[Tensor], rule: AdagradRule) -> AdagradRule:
    for name in ("lr", "grad_scale", "found_inf"):
        number = getattr(rule, name)
        if isinstance(number, Tensor):
            assert number.device == params[0].device, name
            assert number.numel() == 1
    return rule
