"""Twins of models without kinks, on which steps are compared, and a guard that finds kinks.

A unit within rounding of zero falls on one side of a ReLU in one order of summation and on the
other in another: both are right, and the unit's whole share in the gradient comes and goes, which
is ten thousand times the rounding. A maximum does the same between two values that are nearly
equal. No tolerance lets that pass and still sees an error of some tenths of a percent, and no batch
of images keeps all units of a deep network away from zero. So whatever compares two computations of
a model compares them on its twin, which has its layers, sizes, parameters and inputs, but GELU for
ReLU and averages for maxima: there what differs by rounding stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SMOOTH: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    nn.ReLU: lambda _: nn.GELU(),
    nn.MaxPool2d: lambda pool: nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding),
}

#: Functions of floating-point numbers that jump, or whose derivative does; and every max_pool.
KINKS = {
    *("relu", "leaky_relu", "_prelu_kernel", "rrelu_with_noise", "elu", "threshold", "hardtanh"),
    *("hardsigmoid", "hardswish", "hardshrink", "softshrink", "abs", "sign", "sgn", "heaviside"),
    *("clamp", "clamp_min", "clamp_max", "maximum", "minimum", "fmax", "fmin", "max", "min"),
    *("amax", "amin", "aminmax", "argmax", "argmin", "sort", "topk", "median", "kthvalue"),
    *("round", "floor", "ceil", "trunc", "eq", "ne", "lt", "le", "gt", "ge"),
}


def without_kinks(model: nn.Module) -> nn.Module:
    """``model`` with the modules of ``SMOOTH`` exchanged, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in SMOOTH:
                setattr(module, name, SMOOTH[type(child)](child))
    return model


class NoKinks(TorchDispatchMode):
    """Inside of this context, torch's operations on floating-point numbers have no kinks.

    Raises:
        ValueError: from the operation that has one.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.overloadpacket.__name__
        if name.removesuffix("_") in KINKS or "max_pool" in name:
            leaves = tree_leaves((args, kwargs))
            if any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
                raise ValueError(
                    f"{name} has a kink, and two right computations may fall on its two sides; "
                    "compare twins, and let kinks.SMOOTH have what stands for it there"
                )
        return func(*args, **(kwargs or {}))
