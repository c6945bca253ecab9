"""What an op writes, autograd knows of; what it only reads, and all around, stays as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.calls import CALLS, UPDATES, calls_of, make_call, tensors
from support.subprocesses import PATIENCE

from adadagrad_kernels.ops import adagrad_norm_step_, adagrad_step_, batch_adagrad_step_

ONE = torch.ones((), dtype=torch.float64)


@pytest.mark.parametrize("dispatched", [False, True], ids=["direct", "torch.ops"])
@pytest.mark.parametrize("name", CALLS)
def test_version_counters_count_writes(backend: str, name: str, dispatched: bool) -> None:
    call = make_call(name)
    written, read = list(tensors(call.written)), list(tensors(call.read))
    before = [tensor._version for tensor in written]
    unread = [tensor._version for tensor in read]
    if dispatched:
        call.operator(*call.positional)
    else:
        call()
    for tensor, version in zip(written, before, strict=True):
        assert tensor._version > version, f"{tuple(tensor.shape)} was written unnoticed"
    assert [tensor._version for tensor in read] == unread


@pytest.mark.parametrize("name", CALLS)
def test_what_is_read_stays(backend: str, dtype: torch.dtype, name: str) -> None:
    call = make_call(name, dtype)
    before = [tensor.clone() for tensor in tensors(call.read)]
    call()
    for tensor, copy in zip(tensors(call.read), before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("name", ["batch_adagrad_step_", *UPDATES])
def test_dispatched_is_direct(backend: str, name: str) -> None:
    """torch.ops and the public function give the same bits."""
    direct, dispatched = make_call(name), make_call(name)
    direct()
    dispatched.operator(*dispatched.positional)
    for ours, theirs in zip(tensors(direct.written), tensors(dispatched.written), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("step", ["batch", "adagrad", "norm"])
def test_autograd_notices_that_a_saved_tensor_changed(backend: str, step: str) -> None:
    weight = torch.ones(4, requires_grad=True)
    inputs = torch.ones(4, requires_grad=True)
    loss = (weight * inputs).sum()
    with torch.no_grad():
        if step == "batch":
            batch_adagrad_step_(weight, torch.ones(4), torch.ones(2, 4), lr=0.1)
        elif step == "adagrad":
            adagrad_step_([weight], [torch.ones(4)], [torch.ones(4)], lr=0.1)
        else:
            adagrad_norm_step_([weight], [torch.ones(4)], ONE.clone(), lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_are_updated_under_no_grad(backend: str) -> None:
    """Leaves stay leaves, and keep requiring grad."""
    weight = torch.nn.Parameter(torch.ones(4))
    with torch.no_grad():
        adagrad_step_([weight], [torch.ones(4)], [torch.zeros(4)], lr=0.5)
    assert weight.is_leaf
    assert weight.requires_grad
    assert torch.allclose(weight, torch.full((4,), 0.5))


def test_outputs_carry_no_graph(backend: str) -> None:
    grads = torch.ones(3, 4, requires_grad=True)
    with torch.no_grad():
        results = make_call("batch_moments").function(grads)
    assert not any(result.requires_grad for result in results)


def test_inference_mode(backend: str) -> None:
    """Inference tensors have no version counter to raise."""
    with torch.inference_mode():
        for name in calls_of(backend):
            assert all(result.isfinite().all() for result in make_call(name)())


def test_no_access_beyond_the_tensors() -> None:
    """Each tensor ends, then begins, at a page that may not be touched: a fault kills the child."""
    child = subprocess.run(
        [sys.executable, "-m", "support.guard_pages"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert child.returncode == 0, f"exit {child.returncode}: {child.stdout} {child.stderr}"
    assert "faulted as it should" in child.stdout
