"""AdaGrad on the multi-tensor kernels, a drop-in for torch.optim.Adagrad."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from adadagrad_kernels.ops.adagrad_step import take_step
from adadagrad_kernels.optim._base import MultiTensorOptimizer, total_of
from adadagrad_kernels.optim._buckets import Accumulator, Call, Group
from adadagrad_kernels.optim._scalars import capturing


class Adagrad(MultiTensorOptimizer):
    r"""AdaGrad (Duchi, Hazan, Singer 2011), with the signature and state of torch.optim.Adagrad.

    With :math:`g_t` the gradient (negated by ``maximize``) and :math:`\tau` the initial value,

    .. math::
        d_t = g_t + \lambda w_{t-1}, \qquad
        v_t = v_{t-1} + d_t^2, \quad v_0 = \tau, \qquad
        w_t = w_{t-1} - \frac{\alpha}{1 + (t - 1)\,\eta} \cdot \frac{d_t}{\sqrt{v_t} + \epsilon},

    elementwise. Complex numbers count as pairs of real ones; a sparse gradient updates only the
    rows it names. State dicts swap with torch.optim.Adagrad in both directions.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: the learning rate :math:`\alpha`; a one-element tensor is read in every step.
        lr_decay: :math:`\eta`.
        weight_decay: :math:`\lambda`; not with sparse gradients.
        initial_accumulator_value: :math:`\tau`.
        eps: :math:`\epsilon`, added to the root.
        foreach: accepted as by torch; there is only one implementation, which takes all tensors
            at once.
        maximize: ascend instead of descend.
        differentiable: must be False.
        fused: accepted as by torch. With True ``torch.amp.GradScaler`` leaves the gradients scaled,
            and the kernel divides them as it reads them.
        capturable: whether a CUDA graph may capture the step. Every replay then uses the current
            values of ``lr`` (a tensor on the device), of ``lr_decay``'s counts and of the loss
            scale (with ``fused=True``). Sparse gradients are refused. On the CPU it is an
            ordinary step. Loaded state lies in other memory: capture after loading.

    On other devices than the CPU a step does not wait, with or without ``capturable``, unless
    gradients are sparse. Counts on a device (``capturable`` or ``fused``) are not read. So with
    ``lr_decay`` parameters are updated in one call as long as they had gradients in the same steps;
    after that, in one call for each such history, and for each parameter if counts were set by
    hand.

    Raises:
        ValueError: for a negative setting, or a learning rate with more than one element.
        RuntimeError: for ``differentiable=True``, and for ``fused`` with ``foreach``.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.optim import Adagrad
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = Adagrad([weight], lr=0.1)
        >>> (weight @ torch.tensor([3.0, -4.0])).backward()
        >>> optimizer.step()
        >>> weight.data, optimizer.grad_sq_norm
        (tensor([-0.1000,  0.1000]), tensor(25., dtype=torch.float64))
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        if not lr_decay >= 0.0:
            raise ValueError(f"Invalid lr_decay value: {lr_decay}; accepted are numbers from 0 up")
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _accumulator(self, group: Group) -> Accumulator:
        return Accumulator.ELEMENT

    def _first_sums(self, missing: list[tuple[Tensor, Group]]) -> list[Tensor]:
        value = self.defaults["initial_accumulator_value"]
        return [
            torch.full_like(param, complex(value, value) if param.is_complex() else value)
            for param, _ in missing
        ]

    def _update(self, calls: list[Call]) -> Tensor:
        parts = [part for call in calls for part in _by_learning_rate(call)]
        return total_of([part.run(_step) for part in parts])


def _step(call: Call) -> Tensor:
    return take_step(call.params, call.grads, call.sums, call.rule)


def _by_learning_rate(call: Call) -> list[Call]:
    """The call, split where ``lr_decay`` and different counts give tensors different rates."""
    counters, decay = call.bucket.counters, call.group["lr_decay"]
    parts = [call]
    if decay != 0:
        groups = counters.groups(call.positions)
        if len(groups) > 1:
            parts = [call.subset(places) for _, places in groups]
        for part, (count, _) in zip(parts, groups, strict=True):
            part.rule = part.rule._replace(lr=_decayed(part.rule.lr, count, decay))
    counters.part_ways(call.positions)
    if decay != 0 and call.bucket.capturable and capturing():
        counters.rely_on_groups()
    return parts


def _decayed(lr: float | Tensor, count: float | Tensor, decay: float) -> float | Tensor:
    divisor = 1 + count * decay
    if isinstance(divisor, Tensor) and not isinstance(lr, Tensor):
        lr = torch.full_like(divisor, lr)  # torch divides numbers by tensors through reciprocals
    return lr / divisor
