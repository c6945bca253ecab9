"""The scalars of an AdaGrad step, which pass as one value from the ops to the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adadagrad_kernels.checks import device_scalar
from adadagrad_kernels.settings import check_step_numbers


class AdagradRule(NamedTuple):
    """How a step is taken along a gradient.

    Attributes:
        lr: the learning rate; a number, or one on the device of the tensors.
        eps: added to the root of the accumulator.
        weight_decay: what is added to the gradient, times the parameter.
        maximize: ascend instead of descend.
        grad_scale: the factor that the gradients carry; like ``lr``.
        found_inf: one number on the device; where it is not 0, nothing is written.
    """

    lr: float | Tensor
    eps: float
    weight_decay: float
    maximize: bool
    grad_scale: float | Tensor = 1.0
    found_inf: Tensor | None = None

    def check_numbers(self) -> None:
        """Refuse numbers with which a step would climb, or write NaN.

        Those that lie on a device are read by kernels alone.

        Raises:
            ValueError: for the first that is out of range, with what is accepted.
        """
        check_step_numbers(
            lr=0.0 if isinstance(self.lr, Tensor) else self.lr,
            eps=self.eps,
            weight_decay=self.weight_decay,
            grad_scale=1.0 if isinstance(self.grad_scale, Tensor) else self.grad_scale,
        )

    def beside(self, tensors: Sequence[Tensor]) -> AdagradRule:
        """The rule as kernels read it: float64 on the device of the tensors, float32 the flag.

        Raises:
            ValueError: for a scalar that is anything but one real number there.
        """
        lr, scale, flag = self.lr, self.grad_scale, self.found_inf
        if not isinstance(lr, Tensor) and not isinstance(scale, Tensor) and flag is None:
            return self
        if not tensors or not isinstance(tensors[0], Tensor):
            return self  # with which no step is taken
        device = tensors[0].device
        if isinstance(lr, Tensor):
            lr = device_scalar("lr", lr, device, torch.float64)
        if isinstance(scale, Tensor):
            scale = device_scalar("grad_scale", scale, device, torch.float64)
        if flag is not None:
            flag = device_scalar("found_inf", flag, device, torch.float32)
        return self._replace(lr=lr, grad_scale=scale, found_inf=flag)


def in_schema(
    lr: float | Tensor,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float | Tensor,
    found_inf: Tensor | None,
) -> tuple[Any, ...]:
    """The fields as a schema has them, which keeps numbers and tensors apart."""
    rate, rate_there = (0.0, lr) if isinstance(lr, Tensor) else (lr, None)
    scale, scale_there = (1.0, grad_scale) if isinstance(grad_scale, Tensor) else (grad_scale, None)
    return rate, eps, weight_decay, maximize, scale, rate_there, scale_there, found_inf


def from_schema(
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float,
    lr_tensor: Tensor | None = None,
    grad_scale_tensor: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> AdagradRule:
    """The rule again."""
    return AdagradRule(
        lr if lr_tensor is None else lr_tensor,
        eps,
        weight_decay,
        maximize,
        grad_scale if grad_scale_tensor is None else grad_scale_tensor,
        found_inf,
    )
