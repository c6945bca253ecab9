"""Learning rates that follow the batch size, beside any scheduler of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer

from adadagrad_kernels.batching.learning_rate_rules import LearningRateRule, PowerRule
from adadagrad_kernels.settings import require_equal, require_int, require_keys

if TYPE_CHECKING:
    from adadagrad_kernels.statistics import GradientStatistics


#: Optimizers whose rates are followed now.
_FOLLOWING: WeakSet[Optimizer] = WeakSet()


class BatchSizeLR:
    """Multiplies an optimizer's learning rates by a gain that follows the batch size.

    The gain applies during ``optimizer.step`` alone: a hook before the step multiplies the rate of
    every parameter group, and a hook after it puts the same value back. So torch's schedulers run
    undisturbed, whether they compute rates anew or from the last ones, and checkpoints hold the
    rates without the gain. Tensor rates (``capturable``) are changed in place. After a step that
    raised, ``update`` and the next step put the rates back.

    Args:
        optimizer: any torch optimizer. Its rates are those for ``batch_size``.
        rule: ``"linear"``, ``"sqrt"``, or a rule such as ``per_doubling(0.75)`` or ``AdaScale``.
        batch_size: the first batch size.

    Attributes:
        gain: the factor of the next step.

    Raises:
        ValueError: for another rule or size, and an optimizer that has a ``BatchSizeLR`` already.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.batching import BatchSizeLR
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> rate = BatchSizeLR(optimizer, "linear", batch_size=8)
        >>> rate.update(16)
        >>> weight.grad = torch.ones(1)
        >>> optimizer.step()
        >>> weight.item(), optimizer.param_groups[0]["lr"]
        (-1.0, 0.5)
    """

    def __init__(
        self, optimizer: Optimizer, rule: str | LearningRateRule, *, batch_size: int
    ) -> None:
        named = {"linear": PowerRule(1.0), "sqrt": PowerRule(0.5)}
        if isinstance(rule, str):
            if rule not in named:
                raise ValueError(
                    f"rule must be one of {', '.join(named)}, or a LearningRateRule such as "
                    f"per_doubling(0.75), got {rule!r}"
                )
            rule = named[rule]
        self.optimizer: Optimizer = optimizer
        self.rule: LearningRateRule = rule
        self.batch_size: int = require_int("batch_size", batch_size, at_least=1)
        if optimizer in _FOLLOWING:
            raise ValueError(
                "this optimizer already has a BatchSizeLR, and two gains would undo each other: "
                "call remove() on the first one"
            )
        self.gain: float = 1.0
        # One for each parameter group, where their sizes differ.
        self._gains: list[float] | None = None
        # Of each group, the rate that it had before the step.
        self._rates: list[tuple[dict[str, Any], Any]] = []
        self._attach()

    def _attach(self) -> None:
        _FOLLOWING.add(self.optimizer)
        self._handles = [
            self.optimizer.register_step_pre_hook(lambda *_: self._multiply()),
            self.optimizer.register_step_post_hook(lambda *_: self._restore()),
            self.optimizer.register_load_state_dict_pre_hook(lambda *_: self._rates.clear()),
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Without the hooks, which optimizers leave behind too when they are pickled or copied."""
        return {**vars(self), "_handles": bool(self._handles)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _handles=[])
        if state["_handles"]:
            self._attach()

    def update(
        self, batch_size: int | Sequence[int], statistics: GradientStatistics | None = None
    ) -> None:
        """Set the gain of the next step.

        Args:
            batch_size: of the step that comes, such as ``controller.batch_size``; or one for each
                parameter group, such as ``GroupBatches.batch_sizes``, for rules without memory.
            statistics: of the step before, for rules that read them.

        Raises:
            ValueError: for another number of sizes than groups, or with a rule that reads
                statistics, which are those of one batch.
        """
        if isinstance(batch_size, Sequence):
            self._update_groups(batch_size)
            return
        batch_size = require_int("batch_size", batch_size, at_least=1)
        self._restore()
        if statistics is not None:
            self.rule.observe(statistics)
        self.gain, self._gains = self.rule.gain(batch_size / self.batch_size), None

    def _update_groups(self, batch_sizes: Sequence[int]) -> None:
        groups = len(self.optimizer.param_groups)
        if len(batch_sizes) != groups:
            raise ValueError(
                f"got {len(batch_sizes)} batch sizes, and the optimizer has {groups} parameter "
                "groups; pass one for each, or one number for all"
            )
        if hasattr(self.rule, "state_dict"):
            raise ValueError(
                f"{self.rule!r} remembers the statistics of one batch, and groups have batches of "
                "their own; accepted are rules without memory, such as 'sqrt'"
            )
        sizes = [require_int("batch_size", size, at_least=1) for size in batch_sizes]
        if any(isinstance(group["lr"], Tensor) for group in self.optimizer.param_groups):
            rates = [id(group["lr"]) for group in self.optimizer.param_groups]
            if len(set(rates)) < groups:
                raise ValueError(
                    "parameter groups share a tensor as learning rate, which cannot have the gains "
                    "of several; give each group its own tensor"
                )
        self._restore()
        self._gains = [self.rule.gain(size / self.batch_size) for size in sizes]

    def remove(self) -> None:
        """Detach from the optimizer."""
        self._restore()
        _FOLLOWING.discard(self.optimizer)
        while self._handles:
            self._handles.pop().remove()

    def state_dict(self) -> dict[str, Any]:
        """The gain, and what the rule remembers, as plain JSON types."""
        state = getattr(self.rule, "state_dict", None)
        return {
            "rule": repr(self.rule),
            "batch_size": self.batch_size,
            "gain": self.gain,
            "rule_state": None if state is None else state(),
            # Absent where all groups have one size, so that such states stay as they were.
            **({} if self._gains is None else {"gains": list(self._gains)}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: if keys are missing, or the rule or the first size is another; nothing has
                changed then.
        """
        require_keys("BatchSizeLR", state, ("rule", "batch_size", "gain", "rule_state"))
        require_equal("BatchSizeLR", "rule", state["rule"], repr(self.rule))
        require_equal("BatchSizeLR", "batch_size", state["batch_size"], self.batch_size)
        gains = state.get("gains")
        if gains is not None:
            require_equal("BatchSizeLR", "groups", len(gains), len(self.optimizer.param_groups))
        if state["rule_state"] is not None:
            self.rule.load_state_dict(state["rule_state"])  # type: ignore[attr-defined]
        self.gain = float(state["gain"])
        self._gains = None if gains is None else [float(gain) for gain in gains]

    @torch.no_grad()
    def _multiply(self) -> None:
        self._restore()
        multiplied: set[int] = set()
        groups = self.optimizer.param_groups
        gains = [self.gain] * len(groups) if self._gains is None else self._gains
        for group, gain in zip(groups, gains, strict=True):
            rate = group["lr"]
            if not isinstance(rate, Tensor):
                self._rates.append((group, rate))
                group["lr"] = rate * gain
            elif id(rate) not in multiplied:  # groups may share a tensor
                multiplied.add(id(rate))
                self._rates.append((group, rate.clone()))
                rate.mul_(gain)

    @torch.no_grad()
    def _restore(self) -> None:
        for group, rate in self._rates:
            if isinstance(rate, Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = rate
        self._rates.clear()
