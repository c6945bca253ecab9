"""torch.library: schemas that tell the truth, tracing without data, and torch.compile.

Once, with the backend that ``auto`` picks: what is registered is the same for all.
"""

from __future__ import annotations

import shutil

import pytest
import torch
from support.calls import CALLS, make_call, tensors
from torch._subclasses.fake_tensor import FakeTensorMode

from adadagrad_kernels import ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    """Mutation, aliasing, fake outputs and tracing with dynamic shapes, as torch checks them."""
    call = make_call(name, dtype, samples=5, features=33, shapes=[(5, 3), (7,), ()])
    torch.library.opcheck(call.operator, call.positional)


@pytest.mark.parametrize("asked", [(True, False), (False, True), (False, False)])
def test_opcheck_of_what_was_not_asked(asked: tuple[bool, bool]) -> None:
    grads = torch.randn(4, 6)
    torch.library.opcheck(torch.ops.adadagrad_kernels.batch_moments.default, (grads, *asked))


@pytest.mark.parametrize("name", CALLS)
def test_fake_tensors_through_torch_ops(name: str, dtype: torch.dtype) -> None:
    """Shapes, dtypes and devices without data are those of the real run."""
    real = make_call(name, dtype, samples=5, features=33)
    results = list(tensors(real.operator(*real.positional)))
    mode = FakeTensorMode()

    def to_fake(tree):
        if isinstance(tree, torch.Tensor):
            return mode.from_tensor(tree)
        return [to_fake(branch) for branch in tree] if isinstance(tree, list) else tree

    with mode:
        faked = list(tensors(real.operator(*map(to_fake, real.positional))))
    for ours, theirs in zip(faked, results, strict=True):
        assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)


def _step(params, sums, accumulator, grads, inputs):
    """Every op once, in the middle of ordinary torch code."""
    moments = ops.batch_moments(inputs * 2)
    updated = ops.batch_adagrad_step_(params[0], sums[0], inputs + 1, lr=0.1, weight_decay=0.01)
    norm = ops.adagrad_step_(params, grads, sums, lr=0.1, maximize=True)
    other = ops.adagrad_norm_step_(params, grads, accumulator, lr=0.1, grad_scale=2.0)
    return moments.mean + 1, updated.variance, norm + other, params[0] * 2


def _arguments():
    params = [torch.randn(33), torch.randn(4, 3)]
    sums = [torch.rand(33) + 1, torch.rand(4, 3) + 1]
    grads = [torch.randn(33), torch.randn(4, 3)]
    return params, sums, torch.ones((), dtype=torch.float64), grads, torch.randn(5, 33)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_without_graph_breaks(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(_step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    _assert_same(compiled)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_with_inductor() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("inductor needs a C++ compiler on the PATH")
    torch._dynamo.reset()
    _assert_same(torch.compile(_step, fullgraph=True))


def _assert_same(compiled) -> None:
    torch.manual_seed(1)
    ours = _arguments()
    torch.manual_seed(1)
    theirs = _arguments()
    results = list(tensors([compiled(*ours), ours]))
    expected = list(tensors([_step(*theirs), theirs]))
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
