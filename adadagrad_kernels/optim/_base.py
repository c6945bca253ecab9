"""The step that Adagrad and AdagradNorm share: closures, loss scaling, counters, state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from adadagrad_kernels.optim._buckets import Accumulator, Bucket, Call, Group, same


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
        self._forget()
        super().__init__(params, defaults)
        if defaults["fused"]:
            if defaults["differentiable"]:
                raise RuntimeError("`fused` does not support `differentiable`")
            if defaults["foreach"]:
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
            self._step_supports_amp_scaling = True
        self._add_missing_state()

    @property
    def grad_sq_norm(self) -> Tensor | None:
        """The squared norm of the gradient of the last step that was taken.

        It is unscaled and before weight decay, 0-dimensional, float64; None before the first step.
        Of a sharded gradient it is this process's part.
        """
        return self._grad_sq_norm

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
            RuntimeError: for sparse gradients with weight decay, and for sparse or complex
                tensors with ``fused=True``.
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
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return loss
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        calls = [call for bucket in self._current_buckets() if (call := bucket.call())]
        for call in calls:
            if not call.bucket.plain:
                call.prepare()
        self._grad_sq_norm = self._update(calls, 1.0 if grad_scale is None else grad_scale.item())
        for call in calls:
            call.finish()
            call.bucket.count(call.positions)
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
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
        self.__dict__.setdefault("_grad_sq_norm", None)
        for group in self.param_groups:
            # Older checkpoints lack what did not exist yet.
            group.setdefault("foreach", None)
            group.setdefault("maximize", False)
            group.setdefault("fused", None)
            group["differentiable"] = False  # how a saved run was executed is not part of its state
        for param, group, saved in saved_states:
            if not isinstance(saved["step"], Tensor):
                saved["step"] = _new_step(param, group, float(saved["step"]))
        if any(group["fused"] for group in self.param_groups):
            self._step_supports_amp_scaling = True

    def _forget(self) -> None:
        self._buckets: list[Bucket] = []
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
        self._add_missing_state()
        self._buckets = []
        for group in self.param_groups:
            by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for param in group["params"]:
                by_kind.setdefault((param.device, param.dtype), []).append(param)
            for params in by_kind.values():
                states = [self.state[param] for param in params]
                self._buckets.append(Bucket(group, self._accumulator(group), params, states))
        self._known_groups = list(self.param_groups)
        self._known_params = [list(group["params"]) for group in self.param_groups]
        self._known_states = list(self.state.values())

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
    def _update(self, calls: list[Call], grad_scale: float) -> Tensor:
        """Update parameters and accumulators; the squared norm of the whole gradient."""


def total_of(sq_norms: list[Tensor]) -> Tensor:
    """The sum of 0-dimensional tensors, on the device of the first; zero for none."""
    if not sq_norms:
        return torch.zeros((), dtype=torch.float64)
    first, *others = sq_norms
    for other in others:
        first = first + other.to(first.device)
    return first


def _require_not_negative(name: str, value: float | Tensor) -> None:
    if not value >= 0.0:  # so that NaN is refused too
        raise ValueError(f"Invalid {name}: {value}; accepted are numbers from 0 up")


def _new_step(param: Tensor, group: Group, value: float) -> Tensor:
    """A step counter of the dtype and on the device where torch.optim.Adagrad keeps it."""
    if group["fused"]:
        return torch.tensor(value, dtype=torch.float32, device=param.device)
    is_double = torch.get_default_dtype() == torch.float64
    return torch.tensor(value, dtype=torch.float64 if is_double else torch.float32)
