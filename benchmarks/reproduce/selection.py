"""Of a grid of learning rates that one seed has run, the best for each way to train."""

from __future__ import annotations

from typing import Any


def way_of(run: dict[str, Any]) -> str:
    """The method of a run without its learning rate."""
    method: str = run["method"]
    return method.rpartition(", lr ")[0]


def best_rates(runs: list[dict[str, Any]], metric: str, seed: int = 0) -> dict[str, float]:
    """The rate with the lowest metric at the end, by way; ways that only diverged are left out."""
    lowest: dict[str, tuple[float, float]] = {}
    for run in runs:
        result = run["result"]
        if run["seed"] != seed or result["diverged"] or result["final"][metric] is None:
            continue
        found = (result["final"][metric], run["settings"]["plan"]["optimizer"]["lr"])
        lowest[way_of(run)] = min(found, lowest.get(way_of(run), found))
    return {way: rate for way, (_, rate) in lowest.items()}
