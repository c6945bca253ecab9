"""The Triton backend without a device: when it runs, how it launches, what it leaves behind."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed; pip install triton")

from adadagrad_kernels.backends import triton as backend
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.triton import _launch
from adadagrad_kernels.backends.triton.kernels._lists import LARGE, SLOTS, batches, code, padded
from gpu_ladder.triton_checks.listing import recorded
from gpu_ladder.triton_checks.ptx_executor import PtxExecutor

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_it_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend.unavailable() == "torch sees no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backend.unavailable() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in backend.unavailable()


def test_an_executor_or_the_interpreter_need_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with PtxExecutor(90).running(_launch.set_executor):
        assert backend.unavailable() is None
    assert backend.unavailable() is not None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend.unavailable() is None


def test_the_package_does_not_import_triton_until_it_is_used() -> None:
    code = "import sys, adadagrad_kernels.backends.triton as b; print('triton' in sys.modules)"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == "False"


def test_an_executor_is_put_back() -> None:
    def first(launch: object) -> None:
        raise AssertionError("nothing is launched here")

    assert _launch.set_executor(first) is None
    assert _launch.executor() is first
    assert _launch.set_executor(None) is first


def test_what_is_empty_is_not_launched() -> None:
    assert recorded(lambda: backend.batch_moments(torch.empty(3, 0), True, True)) == []
    lists = [[torch.empty(0)] for _ in range(3)]
    launches = recorded(lambda: backend.adagrad_step_(*lists, AdagradRule(0.1, 0.0, 0.0, False)))
    assert [launch.kernel.__name__ for launch in launches] == ["add_span_kernel"]


def test_updates_raise_the_version_counters() -> None:
    tensors = [torch.ones(3, 5) for _ in range(2)]
    total = torch.ones((), dtype=torch.float64)
    before = [tensor._version for tensor in (*tensors, total)]
    recorded(lambda: backend.adagrad_step_(tensors[:1], [torch.ones(3, 5)], tensors[1:],
                                           AdagradRule(0.1, 0.0, 0.0, False)))  # fmt: skip
    recorded(lambda: backend.adagrad_norm_step_(tensors[:1], [torch.ones(3, 5)], [total], False,
                                                AdagradRule(0.1, 0.0, 0.0, False)))  # fmt: skip
    after = [tensor._version for tensor in (*tensors, total)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1, 1]


def test_batches_hold_what_is_alike_in_its_order() -> None:
    items = [("a", 1), ("b", 2), ("a", 3), ("a", LARGE), ("b", 5)]
    grouped = batches(items, lambda item: item[0], lambda item: item[1])
    assert grouped == [[("a", 1), ("a", 3)], [("b", 2), ("b", 5)], [("a", LARGE)]]
    many = batches(range(2 * SLOTS + 1), lambda _: 0, lambda _: 1)
    assert [len(batch) for batch in many] == [SLOTS, SLOTS, 1]
    assert [item for batch in many for item in batch] == list(range(2 * SLOTS + 1))


def test_coded_sizes_have_no_facts_for_a_compiler() -> None:
    """Neither 1 nor a multiple of 16, and small ones fit into 32 bits."""
    for size in (0, 1, 7, 8, 16, 1024, LARGE - 1):
        coded = code(size)
        assert coded > 1
        assert coded % 16
        assert coded < 2**31
        assert (coded - 3) >> 1 == size


def test_padding_fills_the_slots() -> None:
    assert padded([5]) == (5,)
    assert padded([5, 6]) == (5, 6, *[5] * (SLOTS - 2))
    assert padded([5, 6], 9) == (5, 6, *[9] * (SLOTS - 2))
