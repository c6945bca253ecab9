"""The way on which tests marked `gpu` run the backends, with emulated devices in a GPU's place."""

from __future__ import annotations

import pytest
import torch
from support.calls import CALLS, make_call, runs, tensors
from support.gpu_executions import _standing_in, emulated_cuda, triton_machine
from support.on_device import OnDevice

from adadagrad_kernels import use_backend
from adadagrad_kernels.backends import BACKENDS

SHAPES = [(31, 33), (700,), ()]
HERE = torch.device("cpu")


def _compare(name: str, backend: str) -> None:
    """A call on copies of its tensors' memory gives and leaves what the reference does."""
    ours, theirs = (make_call(name, samples=9, features=300, shapes=SHAPES) for _ in range(2))
    written = list(tensors(ours.written))
    versions = [tensor._version for tensor in written]
    with _standing_in(backend, OnDevice(BACKENDS[backend].module, HERE)):
        found = ours()
    with use_backend("reference"):
        torch.testing.assert_close(found, theirs(), rtol=1e-4, atol=1e-4)
    assert all(t._version > before for t, before in zip(written, versions, strict=True))


@pytest.mark.parametrize("name", [n for n in CALLS if runs(BACKENDS["cuda"], n.partition(" ")[0])])
def test_cuda(name: str) -> None:
    with emulated_cuda():
        _compare(name, "cuda")


@pytest.mark.parametrize("name", ["batch_moments", "adagrad_step_"])
def test_triton(name: str) -> None:
    with triton_machine("sm_90", checks=False):
        _compare(name, "triton")


def test_what_a_device_refuses_is_asked_of_the_backend() -> None:
    for backend in ("cuda", "triton"):
        if backend == "cuda":
            with emulated_cuda():
                refusal = OnDevice(BACKENDS["cuda"].module, HERE).refuses(HERE, torch.float64)
        else:
            refusal = OnDevice(BACKENDS["triton"].module, HERE).refuses(HERE, torch.float64)
        assert "it has no kernels for torch.float64" in str(refusal)
