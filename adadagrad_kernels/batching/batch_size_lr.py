"""Learning rates that follow the batch size, beside any scheduler of torch."""

from __future__ import annotations

from collections.abc import Mapping
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

    def update(self, batch_size: int, statistics: GradientStatistics | None = None) -> None:
        """Set the gain of the next step.

        Args:
            batch_size: of the step that comes, such as ``controller.batch_size``.
            statistics: of the step before, for rules that read them.
        """
        batch_size = require_int("batch_size", batch_size, at_least=1)
        self._restore()
        if statistics is not None:
            self.rule.observe(statistics)
        self.gain = self.rule.gain(batch_size / self.batch_size)

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
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: if keys are missing, or the rule or the first size is another; nothing has
                changed then.
        """
        require_keys("BatchSizeLR", state, self.state_dict())
        require_equal("BatchSizeLR", "rule", state["rule"], repr(self.rule))
        require_equal("BatchSizeLR", "batch_size", state["batch_size"], self.batch_size)
        if state["rule_state"] is not None:
            self.rule.load_state_dict(state["rule_state"])  # type: ignore[attr-defined]
        self.gain = float(state["gain"])

    @torch.no_grad()
    def _multiply(self) -> None:
        self._restore()
        multiplied: set[int] = set()
        for group in self.optimizer.param_groups:
            rate = group["lr"]
            if not isinstance(rate, Tensor):
                self._rates.append((group, rate))
                group["lr"] = rate * self.gain
            elif id(rate) not in multiplied:  # groups may share a tensor
                multiplied.add(id(rate))
                self._rates.append((group, rate.clone()))
                rate.mul_(self.gain)

    @torch.no_grad()
    def _restore(self) -> None:
        for group, rate in self._rates:
            if isinstance(rate, Tensor):
                group["lr"].copy_(rate)
            else:
                group["lr"] = rate
        self._rates.clear()
