"""Which tensors of an optimizer go to the op in one call, and in what form.

The op takes plain dense tensors, hundreds per call. A `Bucket` is found once and kept while the
parameters and their state stay the same objects; every step makes a `Call` of it, with the
parameters that have a gradient. Ordinary tensors pass through without a look: the op checks them
anyway, and only if it refuses one are they examined one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from enum import Enum
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.checks import check_updated
from adadagrad_kernels.optim._counters import Counters, State, join
from adadagrad_kernels.optim._scalars import as_device_scalar
from adadagrad_kernels.optim._shards import shards_of

Group = dict[str, Any]

_sum_of, _is_sparse = itemgetter("sum"), attrgetter("is_sparse")
_TINY = torch.finfo(torch.float64).tiny


class Accumulator(Enum):
    """What one number of a state's ``sum`` stands for."""

    ELEMENT = "element"  # a tensor like the parameter
    ROW = "row"  # [rows]
    SHARE = "share"  # 0-dimensional: the tensor's share of one accumulator in all


class Bucket:
    """The parameters of one group that share device, dtype and shards, with their states."""

    def __init__(
        self, group: Group, kind: Accumulator, params: list[Tensor], states: list[State]
    ) -> None:
        self.group = group
        self.kind = kind
        self.params = params
        self.states = states
        self.device = params[0].device
        self.shards = shards_of(params[0])
        self.capturable = bool(group["capturable"])
        # Where no one has to wait for the numbers of a step, they are read.
        self.on_host = self.device.type == "cpu" and not self.capturable
        place = self.device if self.capturable or group["fused"] else None
        self.counters = Counters(states, place, self.capturable)
        self.shares: Tensor | None = None
        if kind is Accumulator.SHARE:
            self.shares = join(states, "sum", torch.float64, self.device)
            elements = max(sum(param.numel() for param in params), 1)
            self._parts = [param.numel() / elements for param in params]
            weights = torch.tensor(self._parts, dtype=torch.float64, device="cpu")
            self._weights = weights.to(self.shares.device, non_blocking=True)
            self._sums = list(map(_sum_of, states))
        self.plain = False  # whether the op takes every tensor as it is, as far as we know

    def is_current(self) -> bool:
        """Whether the states still hold the elements of the vectors found here."""
        return (
            self.counters.are_current()
            and (self.shares is None or all(map(is_, map(_sum_of, self.states), self._sums)))
            and self.capturable == self.group["capturable"]
            and (self.on_host or self.device == self.params[0].device)
        )

    def call(self) -> Call | None:
        """The tensors with gradients, or None where there are none.

        Raises:
            RuntimeError: for sparse gradients with ``capturable=True``.
        """
        grads = [grad for param in self.params if (grad := param.grad) is not None]
        if self.capturable and any(map(_is_sparse, grads)):
            raise RuntimeError(
                "capturable=True got a sparse gradient: adding up the rows that it names more than "
                "once waits for the device; pass capturable=False, or dense gradients"
            )
        if len(grads) == len(self.params):
            return Call(self, None, self.params, grads, self.states)
        if not grads:
            return None
        positions = [i for i, param in enumerate(self.params) if param.grad is not None]
        params = [self.params[i] for i in positions]
        return Call(self, positions, params, grads, [self.states[i] for i in positions])

    def number(self, name: str, value: float | Tensor) -> float | Tensor:
        """A number that ops on this device take, left where it is."""
        if not isinstance(value, Tensor):
            return float(value)
        return as_device_scalar(name, value, self.device, torch.float64, self.capturable)

    def flag(self, found_inf: Tensor) -> Tensor:
        """The flag of a step that may be skipped, which then has to be counted on the device."""
        if self.counters.device != self.device:
            self.counters.move(self.device)
        return as_device_scalar("found_inf", found_inf, self.device, torch.float32, self.capturable)

    def share_out(self, growth: Tensor, positions: list[int] | None) -> None:
        """Add a growth of the one accumulator to the shares at ``positions``, by their sizes."""
        assert self.shares is not None
        if positions is None:
            self.shares.addcmul_(self._weights, growth)
        elif self.on_host:
            weights = self._weights[positions]
            self.shares[positions] += growth * weights / weights.sum().clamp(min=_TINY)
        else:  # a list of positions would have to be copied to the device
            parts = [self._parts[i] for i in positions]
            whole = max(sum(parts), _TINY)
            growths = torch._foreach_mul([growth] * len(parts), [part / whole for part in parts])
            torch._foreach_add_([self.states[i]["sum"] for i in positions], growths)


class Call:
    """What one call of an op takes: lists of parameters, gradients and accumulators."""

    def __init__(
        self,
        bucket: Bucket,
        positions: list[int] | None,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
    ) -> None:
        self.bucket = bucket
        self.group = bucket.group
        self.positions = positions
        self.params = params
        self.grads = grads
        self.states = states
        self.sums: list[Tensor] = list(map(_sum_of, states))
        self.rule: AdagradRule  # once `take_numbers` has settled it
        self._prepared = False
        self._gathered: list[tuple[Tensor, tuple[Tensor, ...], Tensor]] = []

    def take_numbers(self, grad_scale: float | Tensor, found_inf: Tensor | None) -> None:
        """Settle the rule of the step, with what ``torch.amp.GradScaler`` has set.

        Raises:
            ValueError: with ``capturable=True``, for tensors on another type of device.
        """
        bucket, group = self.bucket, self.group
        lr: float | Tensor = group["lr"]
        flag = None
        if bucket.on_host:
            lr, grad_scale = float(lr), float(grad_scale)
        else:
            lr = bucket.number("lr", lr)
            grad_scale = bucket.number("grad_scale", grad_scale)
            flag = None if found_inf is None else bucket.flag(found_inf)
        settings = group["eps"], group["weight_decay"], group["maximize"]
        self.rule = AdagradRule(lr, *settings, grad_scale, flag)

    def subset(self, chosen: Sequence[int]) -> Call:
        """The tensors at ``chosen`` places of this call's lists."""
        positions = self.positions or range(len(self.params))
        part = Call(
            self.bucket,
            [positions[i] for i in chosen],
            [self.params[i] for i in chosen],
            [self.grads[i] for i in chosen],
            [self.states[i] for i in chosen],
        )
        part.sums = [self.sums[i] for i in chosen]
        part.rule = self.rule
        part._prepared = self._prepared
        part._gathered = self._gathered
        return part

    def run(self, operation: Callable[[Call], Tensor]) -> Tensor:
        """``operation(self)``, which checks all before it writes; prepare what it refuses."""
        try:
            return operation(self)
        except ValueError:
            if self._prepared:
                raise
        self.prepare()
        return operation(self)

    def prepare(self) -> None:
        """Put the tensors into the form that the op takes; nothing of the training is written.

        Raises:
            RuntimeError: for sparse gradients with weight decay, and for sparse or complex
                tensors with ``fused=True``, as torch.optim.Adagrad.
            ValueError: for a state of another shape, and what cannot be prepared.
        """
        self._prepared = True
        before = (*self.params, *self.grads, *self.sums)
        triples = zip(self.params, self.grads, self.states, strict=True)
        prepared = [self._prepare(*triple) for triple in triples]
        self.params, self.grads, self.sums = map(list, zip(*prepared, strict=True))
        after = (*self.params, *self.grads, *self.sums)
        self.bucket.plain = all(map(is_, before, after))

    def finish(self) -> None:
        """Bring back the rows that sparse gradients touched."""
        for target, index, values in self._gathered:
            target[index] = values

    def _prepare(self, param: Tensor, grad: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        kind = self.bucket.kind
        if self.group["fused"] and (grad.is_sparse or param.is_complex()):
            raise RuntimeError(
                "`fused` does not support sparse grad or complex param; pass fused=False"
            )
        if kind is Accumulator.ELEMENT:
            _match(param, state)
        total: Tensor = state["sum"]
        param, grad, total = _local(param), _local(grad), _local(total)
        if grad.is_sparse:
            param, grad, total = self._gather(param, grad, total)
        param, grad = _real(param), _real(grad.resolve_conj().resolve_neg())
        if kind is Accumulator.ELEMENT:
            total = _real(total)
        if not _lie_alike(grad, param):
            grad = torch.empty_like(param, dtype=grad.dtype).copy_(grad)
        if kind is Accumulator.ROW and not param.is_contiguous():
            # Rows of channels_last weights are contiguous, with dimensions in memory's order.
            order = sorted(range(1, param.dim()), key=param.stride, reverse=True)
            param, grad = param.permute(0, *order), grad.permute(0, *order)
            if not param.is_contiguous():
                raise ValueError(
                    f"row_wise=True got a parameter of shape {tuple(param.shape)} with strides "
                    f"{param.stride()}; accepted are parameters whose rows lie one after another"
                )
        # The op checks too, but another bucket's call may have been made by then.
        if kind is Accumulator.ELEMENT:
            check_updated(("param", "grad", "state_sum"), (param, grad, total))
        else:
            check_updated(("param", "grad"), (param, grad))
        return param, grad, total

    def _gather(self, param: Tensor, grad: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The touched rows of a sparse gradient as a dense tensor, which is all that moves."""
        if self.group["weight_decay"] != 0:
            raise RuntimeError(
                "weight_decay option is not compatible with sparse gradients; pass weight_decay=0 "
                "for the group, or dense gradients"
            )
        if self.bucket.kind is Accumulator.ROW and grad.sparse_dim() != 1:
            raise ValueError(
                f"a sparse gradient with {grad.sparse_dim()} sparse dimensions has no whole rows; "
                "row_wise=True accepts dense gradients and those with one sparse dimension"
            )
        grad = grad.coalesce()  # the update is not linear: every row may occur once only
        index = tuple(grad.indices().unbind())
        rows = param[index]
        self._gathered.append((param, index, rows))
        if self.bucket.kind is not Accumulator.SHARE:
            sums, total = total, total[index]
            self._gathered.append((sums, index, total))
        return rows, grad.values(), total


def same(objects: Collection[object], others: Collection[object]) -> bool:
    """Whether both list the same objects."""
    return len(objects) == len(others) and all(map(is_, objects, others))


def _local(tensor: Tensor) -> Tensor:
    """This process's shard of a DTensor; other tensors as they are."""
    to_local = getattr(tensor, "to_local", None)
    local: Tensor = tensor if to_local is None else to_local()
    return local


def _real(tensor: Tensor) -> Tensor:
    if not tensor.is_complex():
        return tensor
    return torch.view_as_real(tensor if tensor.dim() else tensor.view(1))


def _lie_alike(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape list their elements in the same order."""
    if tensor.stride() == other.stride():
        return True
    strides = zip(other.shape, tensor.stride(), other.stride(), strict=True)
    return all(size == 1 or ours == theirs for size, ours, theirs in strides)


def _match(param: Tensor, state: State) -> None:
    """Give the accumulator its parameter's layout, dtype and device, as when a model was moved."""
    total: Tensor = state["sum"]
    if total.shape != param.shape:
        raise ValueError(
            f"the state's sum has shape {tuple(total.shape)}, but its parameter has "
            f"{tuple(param.shape)}; if it is AdagradNorm's, load its adagrad_state_dict()"
        )
    if (total.dtype, total.device) != (param.dtype, param.device) or not _lie_alike(total, param):
        state["sum"] = torch.empty_like(param, requires_grad=False).copy_(total)
