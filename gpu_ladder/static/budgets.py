"""The budgets of this project's kernels; every exception says why."""

from __future__ import annotations

from gpu_ladder.static.checks import Budget

BUDGETS: tuple[Budget, ...] = ()
