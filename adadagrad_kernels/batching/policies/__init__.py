"""How batch sizes follow from steps: one policy for each kind of what a controller is given.

A new kind is a file here and a line in ``_KINDS``; the controller knows the protocol alone.
"""

from __future__ import annotations

from typing import Any

from adadagrad_kernels.batching.policies.criterion import CriterionPolicy
from adadagrad_kernels.batching.policies.fixed import FixedSize
from adadagrad_kernels.batching.policies.policy import BatchSizePolicy
from adadagrad_kernels.batching.policies.rule import RulePolicy
from adadagrad_kernels.batching.policies.schedule import SchedulePolicy

#: The first that takes what was given; every rule is a criterion too.
_KINDS: tuple[type[BatchSizePolicy], ...] = (FixedSize, SchedulePolicy, RulePolicy, CriterionPolicy)


def policy_of(given: Any) -> BatchSizePolicy:
    """The policy of a criterion, a rule, a schedule or None.

    Raises:
        ValueError: for anything else, saying what is accepted.
    """
    for kind in _KINDS:
        if kind.takes(given):
            return kind(given)
    raise ValueError(
        f"a BatchController cannot decide by {given!r}; accepted are a criterion (a callable of "
        "statistics with name, needs_variance and needs_inner_products), a BatchSizeSchedule, or "
        "None for a fixed size"
    )


__all__ = ["BatchSizePolicy", "policy_of"]
