"""Options and fixtures of the benchmarks: ``pytest benchmarks``.

With ``--benchmark-disable`` everything runs once on small sizes: a smoke test of a few seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# Pytest has put the folder above first. It has the sources of the package too; at the end it does
# not hide the installed package.
sys.path.remove(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[1]))

from adadagrad_kernels import _native

MIB = 1 << 20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bench-size",
        choices=("small", "full"),
        help="full: beyond the caches; small: kilobytes, to see that the benchmarks run (the "
        "default with --benchmark-disable)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let torch call its own parts deprecated, as its compiler does; ours stay errors."""
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(r"ignore::DeprecationWarning:torch\..*"))


@pytest.fixture
def small(request: pytest.FixtureRequest) -> bool:
    """Whether to use sizes that say nothing about speed but take no time."""
    disabled = request.config.getoption("--benchmark-disable")
    size = request.config.getoption("--bench-size") or ("small" if disabled else "full")
    return bool(size == "small")


@pytest.fixture
def grads_bytes(small: bool) -> int:
    """Size of per-sample gradients."""
    return 64 * 1024 if small else 128 * MIB


@pytest.fixture
def run(benchmark: Any, small: bool) -> Callable[..., Any]:
    """Time ``function(*arguments)``, with what makes two results comparable written beside it."""

    def timed(group: str, function: Callable[..., Any], *arguments: Any, bytes_moved: int) -> Any:
        benchmark.group = group
        benchmark.extra_info |= {
            "bytes": bytes_moved,
            "dtype": str(next(a for a in _tensors(arguments)).dtype),
            "isa": _native.instruction_sets()["active"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        result = benchmark(function, *arguments)
        if benchmark.stats is not None:
            speed = bytes_moved / benchmark.stats.stats.median / 1e9
            benchmark.extra_info["GB/s"] = round(speed, 2)
        return result

    return timed


def _tensors(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _tensors(branch)
