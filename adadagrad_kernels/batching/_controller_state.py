"""What a controller saves and loads: itself, its criterion, its averages, its watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from adadagrad_kernels.batching._sizes import require_multiple
from adadagrad_kernels.batching.plateau_schedule import PlateauSchedule
from adadagrad_kernels.criteria import BatchSizeRule, Decision
from adadagrad_kernels.settings import require_equal, require_int, require_keys

if TYPE_CHECKING:
    from adadagrad_kernels.batching.controller import BatchController


def saved_state(controller: BatchController) -> dict[str, Any]:
    """All that changes in training."""
    decision = controller.last_decision
    return {
        "criterion": _criterion_text(controller),
        "criterion_state": _criterion_state(controller),
        "batch_size": controller.batch_size,
        "min_batch_size": controller.min_batch_size,
        "samples_seen": controller.samples_seen,
        "steps": controller.steps,
        "nonfinite_steps": controller.nonfinite_steps,
        "last_decision": None if decision is None else asdict(decision),
        "gradient": dict(controller._gradient),
        "changed": controller._changed,
        "smoothing": controller.smoothing.state_dict(),
        "signatures": controller.signatures.state_dict(),
    }


def load_state(controller: BatchController, state: Mapping[str, Any]) -> None:
    """Continue from a saved state.

    Raises:
        ValueError: where it does not fit; nothing has changed then.
    """
    owner, round_to = "BatchController", controller.round_to
    require_keys(owner, state, saved_state(controller))
    require_equal(owner, "criterion", state["criterion"], _criterion_text(controller))
    batch_size = require_multiple("saved batch_size", state["batch_size"], round_to)
    floor = require_multiple("saved min_batch_size", state["min_batch_size"], round_to)
    if not floor <= batch_size <= controller.max_batch_size:
        raise ValueError(
            f"saved batch_size {batch_size} must lie between the saved min_batch_size {floor} "
            f"and this controller's max_batch_size {controller.max_batch_size}"
        )
    samples_seen, steps, nonfinite_steps = (
        require_int(f"saved {name}", state[name], at_least=0)
        for name in ("samples_seen", "steps", "nonfinite_steps")
    )
    saved, changed = state["last_decision"], state["changed"]
    try:
        decision = None if saved is None else Decision(**saved)
    except TypeError as error:
        raise ValueError(f"saved last_decision is not a Decision: {saved!r}") from error
    gradient = {str(name): float(value) for name, value in state["gradient"].items()}
    if changed is not None:
        changed = require_int("saved changed", changed, at_least=1)
    parts = [
        (controller.smoothing, state["smoothing"]),
        (controller.signatures, state["signatures"]),
    ]
    if _remembers(controller.criterion):
        parts.append((controller.criterion, state["criterion_state"]))
    _load_all(parts)
    controller.batch_size, controller.min_batch_size = batch_size, floor
    controller.samples_seen, controller.steps = samples_seen, steps
    controller.nonfinite_steps = nonfinite_steps
    controller.last_decision, controller._gradient = decision, gradient
    controller._changed = changed


def _load_all(parts: list[tuple[Any, Any]]) -> None:
    """Loads all of them, or none."""
    before = [part.state_dict() for part, _ in parts]
    try:
        for part, state in parts:
            part.load_state_dict(state)
    except BaseException:
        for (part, _), state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        raise


def _remembers(criterion: object) -> bool:
    return isinstance(criterion, BatchSizeRule | PlateauSchedule)


def _criterion_state(controller: BatchController) -> dict[str, Any] | None:
    criterion: Any = controller.criterion
    state: dict[str, Any] | None = criterion.state_dict() if _remembers(criterion) else None
    return state


def _criterion_text(controller: BatchController) -> str | None:
    # The constants matter too; only a dataclass promises them in its repr, without addresses.
    criterion = controller.criterion
    if criterion is None or not is_dataclass(criterion):
        return None if criterion is None else criterion.name
    return repr(criterion)
