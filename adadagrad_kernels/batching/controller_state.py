"""What a controller has counted and decided, for saving and loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adadagrad_kernels.batching._sizes import require_multiple
from adadagrad_kernels.criteria import Decision
from adadagrad_kernels.settings import require_int


@dataclass(frozen=True)
class ControllerState:
    """All of a controller's own that changes in training.

    Attributes:
        batch_size: samples of the next step.
        min_batch_size: the floor.
        samples_seen: samples of all steps.
        steps: optimizer steps.
        nonfinite_steps: those whose statistics were not finite.
        last_decision: the latest, or None.
        gradient: the latest test's numbers, by the names that metrics have.
        changed: the step of the latest change of size, or None.
    """

    batch_size: int
    min_batch_size: int
    samples_seen: int
    steps: int
    nonfinite_steps: int
    last_decision: Decision | None
    gradient: dict[str, float]
    changed: int | None

    def saved(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, saved: Mapping[str, Any], *, round_to: int, max_batch_size: int) -> ControllerState:
        """What was saved, for a controller with these bounds.

        Raises:
            ValueError: where it does not fit.
        """
        batch_size = require_multiple("saved batch_size", saved["batch_size"], round_to)
        floor = require_multiple("saved min_batch_size", saved["min_batch_size"], round_to)
        if not floor <= batch_size <= max_batch_size:
            raise ValueError(
                f"saved batch_size {batch_size} must lie between the saved min_batch_size {floor} "
                f"and this controller's max_batch_size {max_batch_size}"
            )
        samples_seen, steps, nonfinite_steps = (
            require_int(f"saved {name}", saved[name], at_least=0)
            for name in ("samples_seen", "steps", "nonfinite_steps")
        )
        decision, changed = saved["last_decision"], saved["changed"]
        try:
            decision = None if decision is None else Decision(**decision)
        except TypeError as error:
            raise ValueError(
                f"saved last_decision is {decision!r}; accepted are the fields of a Decision: load "
                "what state_dict() returned"
            ) from error
        gradient = {str(name): float(value) for name, value in saved["gradient"].items()}
        if changed is not None:
            changed = require_int("saved changed", changed, at_least=1)
        return cls(
            batch_size, floor, samples_seen, steps, nonfinite_steps, decision, gradient, changed
        )


def load_all(parts: list[tuple[Any, Any]]) -> None:
    """Load every part's state, or none.

    Args:
        parts: objects with ``state_dict`` and ``load_state_dict``, each with its saved state.
    """
    before = [part.state_dict() for part, _ in parts]
    try:
        for part, state in parts:
            part.load_state_dict(state)
    except BaseException:
        for (part, _), state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        raise
