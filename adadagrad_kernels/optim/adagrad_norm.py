"""AdaGrad-Norm on the multi-tensor kernels: one accumulator in all, or one for every row."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from adadagrad_kernels.ops.adagrad_norm_step import take_step
from adadagrad_kernels.optim._base import MultiTensorOptimizer, total_of
from adadagrad_kernels.optim._buckets import Accumulator, Call, Group
from adadagrad_kernels.optim._norm_state import (
    filled,
    first_sums,
    guard_sums,
    per_coordinate_sums,
    summed,
)
from adadagrad_kernels.optim._scalars import kept_where_skipped
from adadagrad_kernels.optim._shards import whole_sum


class AdagradNorm(MultiTensorOptimizer):
    r"""AdaGrad-Norm (Ward, Wu, Bottou 2019, algorithm 1): a step size from the gradient's norm.

    With :math:`g_t` the gradient (negated by ``maximize``) of all parameters in all groups,

    .. math::
        d_t = g_t + \lambda w_{t-1}, \qquad
        v_t = v_{t-1} + \lVert d_t \rVert^2, \quad v_0 = \tau, \qquad
        w_t = w_{t-1} - \alpha\, d_t / (\sqrt{v_t} + \epsilon),

    where v is a single number. A parameter group has its own :math:`\alpha`, :math:`\lambda` and
    :math:`\epsilon`, but shares v, because the paper's guarantee is about the norm of the whole
    gradient. With ``row_wise=True`` (which groups may choose each for itself) every row of every
    tensor has its own v: each output of a linear or convolutional layer, each element of a bias,
    as in the code of Lau, Liu, Kolar (2024) except for its treatment of biases. The norm of a
    complex gradient is that of its parts; a sparse gradient moves only the rows it names.

    State is kept by parameter, so that checkpoints can be resharded and parameters added:
    ``step``, and ``sum`` in float64, which is v ``[rows]`` or the parameter's share of v. The
    shares add up to v; each call's addition to v is split by the number of elements. A parameter
    that joins a running optimizer starts with a share of zero. Of DTensors, as
    ``fully_shard`` makes them, the norm is that of all shards, from one all_reduce of a number for
    each call.

    A state dict of torch.optim.Adagrad loads directly: its sums over coordinates add up to v.
    :meth:`adagrad_state_dict` goes the other way.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: the learning rate :math:`\alpha`. Its default, and that of :math:`\tau`, are those of
            the published experiments: lr is the length of the first step if the gradient is much
            larger than :math:`\sqrt\tau`.
        weight_decay: :math:`\lambda`; not with sparse gradients.
        initial_accumulator_value: :math:`\tau`, the paper's :math:`b_0^2`, which it requires to
            be positive: with 0.01 an almost zero first gradient does not take a full step.
        eps: :math:`\epsilon`, added to the root.
        row_wise: an accumulator for every row (first dimension) instead of one in all.
        maximize: ascend instead of descend.
        foreach: accepted as by torch; there is only one implementation.
        fused: accepted as by torch. With True ``torch.amp.GradScaler`` leaves the gradients scaled,
            and the kernel divides them as it reads them.
        capturable: whether a CUDA graph may capture the step, as for
            :class:`~adadagrad_kernels.optim.Adagrad`.

    Raises:
        ValueError: for a negative setting, or a learning rate with more than one element.
        RuntimeError: for ``fused`` with ``foreach``.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.optim import AdagradNorm
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = AdagradNorm([weight], lr=1.0, initial_accumulator_value=0)
        >>> (weight @ torch.tensor([3.0, -4.0])).backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([-0.6000,  0.8000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 1e-2,
        eps: float = 1e-10,
        *,
        row_wise: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "row_wise": row_wise,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": False,
            "fused": fused,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of AdagradNorm or of torch.optim.Adagrad.

        Raises:
            ValueError: where the parameter groups differ, or for torch's ``lr_decay`` other than 0.
        """
        # torch casts loaded state to the parameter's dtype; the float64 sums must not be. As the
        # last hook, this sees what the user's own hooks have made of the state dict.
        handle = self.register_load_state_dict_pre_hook(guard_sums)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        row_wise = state.get("defaults", self.__dict__.get("defaults", {})).get("row_wise", False)
        for group in state["param_groups"]:
            group.pop("lr_decay", None)
            kind = self._accumulator({"row_wise": group.setdefault("row_wise", row_wise)})
            for param in group["params"]:
                saved = state["state"].get(param)
                if saved and "sum" in saved:
                    saved["sum"] = summed(param, saved["sum"], kind)
        super().__setstate__(state)

    def adagrad_state_dict(self) -> dict[str, Any]:
        """This state for torch.optim.Adagrad, with accumulators divided among the coordinates.

        Loading it back restores the accumulators up to the rounding of the parameter's dtype. The
        learning rate is copied unchanged, though AdaGrad will want a smaller one.

        Example:
            >>> import torch
            >>> from adadagrad_kernels.optim import AdagradNorm
            >>> weight = torch.nn.Parameter(torch.zeros(4))
            >>> ours = AdagradNorm([weight], initial_accumulator_value=2.0)
            >>> theirs = torch.optim.Adagrad([weight])
            >>> theirs.load_state_dict(ours.adagrad_state_dict())
            >>> theirs.state[weight]["sum"]
            tensor([0.5000, 0.5000, 0.5000, 0.5000])
        """
        state_dict = self.state_dict()
        params = [param for group in self.param_groups for param in group["params"]]
        state_dict["state"] = {
            index: {
                **saved,
                "step": saved["step"].clone(),
                "sum": per_coordinate_sums(params[index], saved),
            }
            for index, saved in state_dict["state"].items()
        }
        for group in state_dict["param_groups"]:
            del group["row_wise"]
            group["lr_decay"] = 0
        return state_dict

    def _accumulator(self, group: Group) -> Accumulator:
        return Accumulator.ROW if group["row_wise"] else Accumulator.SHARE

    def _first_sums(self, missing: list[tuple[Tensor, Group]]) -> list[Tensor]:
        value = float(self.defaults["initial_accumulator_value"])
        return first_sums(missing, self.param_groups, value)

    def _update(self, calls: list[Call]) -> Tensor:
        by_row = [call for call in calls if call.bucket.kind is Accumulator.ROW]
        sq_norms = [call.run(_step) for call in by_row]
        sharing = [call for call in calls if call.bucket.kind is Accumulator.SHARE]
        if sharing:
            sq_norms += self._update_sharing(sharing)
        return total_of(sq_norms)

    def _update_sharing(self, calls: list[Call]) -> list[Tensor]:
        # v must hold the whole gradient before any tensor moves, but a call of the op adds and
        # moves its own. So all calls but the largest are measured first.
        if any(call.bucket.shards for call in calls):
            return self._update_over_shards(calls)
        if len(calls) > 1:
            calls = sorted(calls, key=lambda call: sum(p.numel() for p in call.params))
        *others, largest = calls
        shares = [bucket.shares.sum() for bucket in self._buckets if bucket.shares is not None]
        growths = [_measure(call) for call in others]
        before = _moved(total_of([*shares, *growths]), largest.params[0])
        accumulator = before.clone()
        sq_norms = [largest.run(partial(_step, accumulator=accumulator))]
        for call, growth in zip(others, growths, strict=True):
            rest = _moved(accumulator, growth) - growth
            sq_norms.append(call.run(partial(_step, accumulator=rest)))
        growths.append(accumulator - before)
        _share_out(calls, growths)
        return sq_norms

    def _update_over_shards(self, calls: list[Call]) -> list[Tensor]:
        """As ``_update_sharing``, with the norm over all processes that have a part."""
        shares = [bucket.shares.sum() for bucket in self._buckets if bucket.shares is not None]
        own = [_measure(call) for call in calls]
        growths = [
            whole_sum(growth, call.bucket.shards) for call, growth in zip(calls, own, strict=True)
        ]
        after = total_of([*shares, *growths])
        sq_norms = []
        for call, part in zip(calls, own, strict=True):
            rest = _moved(after, part) - part
            sq_norms.append(call.run(partial(_step, accumulator=rest)))
        _share_out(calls, growths)
        return [
            whole_sum(norm, call.bucket.shards) for call, norm in zip(calls, sq_norms, strict=True)
        ]


def _share_out(calls: list[Call], growths: list[Tensor]) -> None:
    """Add to the parameters' shares what each call has added to v."""
    for call, growth in zip(calls, growths, strict=True):
        flag = call.rule.found_inf
        if flag is not None:
            growth = kept_where_skipped(torch.zeros_like(growth), growth, flag)
        call.bucket.share_out(growth, call.positions)


def _moved(number: Tensor, other: Tensor) -> Tensor:
    """The number on the device of another tensor; only the CPU has to wait for it."""
    return number.to(other.device, non_blocking=not other.is_cpu)


def _step(call: Call, accumulator: Tensor | None = None) -> Tensor:
    if accumulator is None:
        return take_step(call.params, call.grads, call.sums, True, call.rule)
    return take_step(call.params, call.grads, [accumulator], False, call.rule)


def _measure(call: Call) -> Tensor:
    """What the call adds to v: a step of length zero, so that it is the same to the last bit."""
    growth = filled((), 0.0, call.params[0])

    def measure(call: Call) -> Tensor:
        rule = call.rule._replace(lr=0.0, eps=1.0)
        return take_step(call.params, call.grads, [growth], False, rule)

    call.run(measure)
    return growth
