"""The step that Adagrad and AdagradNorm share: closures, loss scaling, counters, state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from adadagrad_kernels.optim._buckets import Accumulator, Bucket, Call, Group, same
from adadagrad_kernels.optim._scalars import capturing, kept_where_skipped, require_capturable
from adadagrad_kernels.optim._shards import Shards, shards_of


class MultiTensorOptimizer(Optimizer):
    """An optimizer whose step hands all tensors of a device and dtype to one op call.

    Subclasses say what a new state's ``sum`` is and how a list of calls updates the tensors.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        lr = defaults["lr"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, got shape {tuple(lr.shape)}")
        _require_not_negative("learning rate", lr)
        _require_not_negative("weight_decay value", defaults["weight_decay"])
        initial = defaults["initial_accumulator_value"]
        _require_not_negative("initial_accumulator_value value", initial)
        _require_not_negative("epsilon value", defaults["eps"])
        self._grad_sq_norm: Tensor | None = None
        self._lasting_sq_norm: Tensor | None = None
        self._is_set_up = False
        self._forget()
        super().__init__(params, defaults)
        if defaults["fused"]:
            if defaults["differentiable"]:
                raise RuntimeError(
                    "`fused` does not support `differentiable`; pass differentiable=False"
                )
            if defaults["foreach"]:
                raise RuntimeError(
                    "`fused` and `foreach` cannot be `True` together. Pass one of them alone"
                )
            self._step_supports_amp_scaling = True
        self._add_missing_state()
        self._set_up_buckets(all_new=True)
        self._is_set_up = True

    @property
    def grad_sq_norm(self) -> Tensor | None:
        """The squared norm of the gradient of the last step that was taken.

        It is unscaled and before weight decay, 0-dimensional, float64; None before the first step.
        For a sharded gradient it is this process's part. With ``capturable=True`` it is one tensor
        that every step and every replay writes to, and NaN while all steps have been skipped.
        """
        return self._grad_sq_norm

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as torch.optim.Optimizer."""
        super().add_param_group(param_group)
        if self._is_set_up:
            self._set_up_buckets()

    def share_memory(self) -> None:
        """Move the accumulators to shared memory."""
        for state in self.state.values():
            state["sum"].share_memory_()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step along the gradients; parameters without one stay as they are.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.

        Raises:
            RuntimeError: for sparse gradients with weight decay or ``capturable=True``, for sparse
                or complex tensors with ``fused=True``, and for what a graph cannot capture.
            ValueError: for tensors that the op does not accept.
        """
        if torch.compiler.is_compiling():
            # The step is one kernel call; tracing the bookkeeping around it would gain nothing.
            disable: Any = torch.compiler.disable
            loss: float | None = disable(self._step)(closure)
            return loss
        return self._step(closure)

    @torch.no_grad()
    def _step(self, closure: Callable[[], float] | None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        buckets = self._current_buckets()
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        grad_scale: Tensor | float | None = getattr(self, "grad_scale", None)
        if self._some_off_host and capturing():
            name = type(self).__name__
            require_capturable(name, [(bucket.group, bucket.device) for bucket in buckets])
        if self._some_on_host:
            if found_inf is not None and found_inf.item():
                return loss
            found_inf, grad_scale = None, 1.0 if grad_scale is None else float(grad_scale)
        calls = [call for bucket in buckets if (call := bucket.call())]
        for call in calls:
            call.take_numbers(1.0 if grad_scale is None else grad_scale, found_inf)
            if not call.bucket.plain:
                call.prepare()
        if calls:
            self._keep_sq_norm(self._update(calls), calls[0].rule.found_inf)
        else:
            device = buckets[0].device if buckets else None
            self._keep_sq_norm(torch.zeros((), dtype=torch.float64, device=device), None)
        for call in calls:
            call.finish()
            call.bucket.counters.count(call.positions, call.rule.found_inf)
        return loss

    def _keep_sq_norm(self, sq_norm: Tensor, found_inf: Tensor | None) -> None:
        lasting = self._lasting_sq_norm
        if found_inf is not None:
            before = self._grad_sq_norm if lasting is None else lasting
            sq_norm = kept_where_skipped(before, sq_norm, found_inf)
        if lasting is not None:  # a replay writes to where it was captured
            sq_norm = lasting.copy_(sq_norm)
        self._grad_sq_norm = sq_norm

    def __setstate__(self, state: dict[str, Any]) -> None:
        for group in state["param_groups"]:
            if missing := {"lr", "eps", "weight_decay"} - group.keys():
                raise ValueError(
                    f"a parameter group of the state has no {', '.join(sorted(missing))}: it is of "
                    "another optimizer; accepted is the state of AdaGrad or AdaGrad-Norm"
                )
        saved_states = [
            (param, group, saved)
            for group in state["param_groups"]
            for param in group["params"]
            if (saved := state["state"].get(param))
        ]
        for _, _, saved in saved_states:
            if not {"step", "sum"} <= saved.keys():
                raise ValueError(
                    f"a parameter's state has the entries {sorted(saved)}; accepted is the state "
                    "of AdaGrad or AdaGrad-Norm, with step and sum"
                )
        super().__setstate__(state)
        self._forget()
        for name in ("_grad_sq_norm", "_lasting_sq_norm"):
            self.__dict__.setdefault(name, None)
        self._is_set_up = True
        for group in self.param_groups:
            # Older checkpoints lack what did not exist yet.
            group.setdefault("foreach", None)
            group.setdefault("maximize", False)
            group.setdefault("fused", None)
            group.setdefault("capturable", self.defaults.setdefault("capturable", False))
            group["differentiable"] = False  # how a saved run was executed is not part of its state
        for param, group, saved in saved_states:
            if not isinstance(saved["step"], Tensor):
                saved["step"] = _new_step(param, group, float(saved["step"]))
        if any(group["fused"] for group in self.param_groups):
            self._step_supports_amp_scaling = True
        self._set_up_buckets()

    def _set_up_buckets(self, all_new: bool = False) -> None:
        """Do now what would make a later step wait for a device, or what no graph can capture."""
        params = [(p, group) for group in self.param_groups for p in group["params"]]
        if any(param.device.type == "meta" for param, _ in params):
            return
        if any(param.device.type != "cpu" or group["capturable"] for param, group in params):
            self._find_buckets()
            for bucket in self._buckets:
                bucket.counters.begin_equal() if all_new else bucket.counters.read()

    def _forget(self) -> None:
        self._buckets: list[Bucket] = []
        self._some_on_host = self._some_off_host = False
        self._known_groups: list[Group] = []
        self._known_params: list[list[Tensor]] = []
        self._known_states: list[Any] = []

    def _current_buckets(self) -> list[Bucket]:
        """The buckets, found anew where a group, a parameter or a state is another object."""
        if not (
            same(self._known_groups, self.param_groups)
            and same(self._known_states, self.state.values())
            and all(
                same(known, group["params"])
                for known, group in zip(self._known_params, self.param_groups, strict=True)
            )
            and all(bucket.is_current() for bucket in self._buckets)
        ):
            self._find_buckets()
        return self._buckets

    def _find_buckets(self) -> None:
        if capturing():
            raise RuntimeError(
                f"{type(self).__name__} has new parameters or state, which it cannot set up while "
                "a CUDA graph is captured; take a step before the capture"
            )
        self._add_missing_state()
        self._buckets = []
        for group in self.param_groups:
            by_kind: dict[tuple[torch.device, torch.dtype, Shards], list[Tensor]] = {}
            for param in group["params"]:
                kind = (param.device, param.dtype, shards_of(param))
                by_kind.setdefault(kind, []).append(param)
            for params in by_kind.values():
                states = [self.state[param] for param in params]
                self._buckets.append(Bucket(group, self._accumulator(group), params, states))
        self._some_on_host = any(bucket.on_host for bucket in self._buckets)
        self._some_off_host = not all(bucket.on_host for bucket in self._buckets)
        places = [bucket.device for bucket in self._buckets if bucket.capturable]
        place = next((device for device in places if device.type != "cpu"), None)
        self._lasting_sq_norm = self._lasting_sq_norm_on(place or places[0]) if places else None
        self._known_groups = list(self.param_groups)
        self._known_params = [list(group["params"]) for group in self.param_groups]
        self._known_states = list(self.state.values())

    def _lasting_sq_norm_on(self, device: torch.device) -> Tensor:
        lasting = self._lasting_sq_norm
        if lasting is not None and lasting.device == device:
            return lasting
        return torch.full((), torch.nan, dtype=torch.float64, device=device)

    def _add_missing_state(self) -> None:
        missing = []
        for group in self.param_groups:
            if group["differentiable"]:
                raise RuntimeError(
                    f"{type(self).__name__} does not support differentiable=True: its kernels "
                    "keep no graph; use torch.optim.Adagrad(differentiable=True)"
                )
            missing += [(param, group) for param in group["params"] if not self.state.get(param)]
        sums = self._first_sums(missing)
        for (param, group), total in zip(missing, sums, strict=True):
            self.state[param].update(step=_new_step(param, group, 0.0), sum=total)

    @abstractmethod
    def _accumulator(self, group: Group) -> Accumulator:
        """What the numbers of a group's accumulators stand for."""

    @abstractmethod
    def _first_sums(self, missing: list[tuple[Tensor, Group]]) -> list[Tensor]:
        """The accumulators of parameters that have no state yet."""

    @abstractmethod
    def _update(self, calls: list[Call]) -> Tensor:
        """Update parameters and accumulators; the squared norm of the whole gradient."""


def total_of(sq_norms: list[Tensor]) -> Tensor:
    """The sum of 0-dimensional tensors, on the device of one, preferably not the CPU."""
    if len(sq_norms) == 1:
        return sq_norms[0]
    first = next((norm for norm in sq_norms if not norm.is_cpu), sq_norms[0])
    total = first
    for norm in sq_norms:
        if norm is not first:
            total = total + norm.to(total.device, non_blocking=not total.is_cpu)
    return total


def _require_not_negative(name: str, value: float | Tensor) -> None:
    if not value >= 0.0:  # so that NaN is refused too
        raise ValueError(f"Invalid {name}: {value}; accepted are numbers from 0 up")


def _new_step(param: Tensor, group: Group, value: float) -> Tensor:
    """A step counter of the dtype and on the device where torch keeps it."""
    if group["fused"] or group["capturable"]:
        return torch.full((), value, dtype=torch.float32, device=param.device)
    is_double = torch.get_default_dtype() == torch.float64
    return torch.tensor(value, dtype=torch.float64 if is_double else torch.float32, device="cpu")
