"""Runs in a process of its own with TRITON_INTERPRET=1: see `test_triton_interpreter.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adadagrad_kernels import backends
from adadagrad_kernels.backends import triton as triton_backend
from gpu_ladder.triton_checks.interpreter import ORDERS, checked

_TESTS = Path(__file__).resolve().parents[4] / "python_tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "ops"), str(Path(__file__).parent)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=triton_backend.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    given: torch.dtype = request.param
    return given


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The ops on Triton's kernels, every access checked, the programs in an order of the test's."""
    monkeypatch.setattr(backends, "select", lambda *_: triton_backend)
    order = ORDERS[sum(map(ord, request.node.name)) % len(ORDERS)]
    with checked(order=order) as findings:
        yield "triton"
    assert not findings, "\n".join(map(str, findings))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out float64, which these kernels do not take.

    Of the tests in this folder alone: a conftest is asked about all tests of a session.
    """
    for item in list(items):
        if Path(__file__).parent not in item.path.parents:
            continue
        if torch.float64 in getattr(getattr(item, "callspec", None), "params", {}).values():
            items.remove(item)
