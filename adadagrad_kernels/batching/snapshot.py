"""A controller's settings and state after a step, for its watchers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adadagrad_kernels.criteria import Decision


@dataclass(frozen=True)
class Snapshot:
    """What a watcher sees of a controller.

    Attributes:
        criterion: what the controller decides by; None for a fixed size.
        steps: optimizer steps so far.
        batch_size: samples of the next step.
        min_batch_size: the floor.
        max_batch_size: the cap.
        last_decision: the latest, or None.
        brakes: the options that hold growth back, by the names of the arguments.
    """

    criterion: Any
    steps: int
    batch_size: int
    min_batch_size: int
    max_batch_size: int
    last_decision: Decision | None
    brakes: Mapping[str, float | None]
