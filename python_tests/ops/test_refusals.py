"""Bad input: a ValueError that says what was given and what is accepted, and nothing written.

Each refusal is one row: which arguments of a valid call are replaced, and what the message says.
Checks come before a backend is picked, so they run once, with the one that ``auto`` picks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.calls import tensors
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DeviceMesh, DTensor, Replicate
from torch.testing._internal.distributed.fake_pg import FakeStore

from adadagrad_kernels import ops

Make = Callable[[], Any]


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape)


class _Subclass(Tensor):
    pass


def _fake(tensor: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(tensor)


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    yield DeviceMesh("cpu", [0])
    torch.distributed.destroy_process_group()


# Without grad mode nothing is refused for its graph, and all else as with it.
GRAD_MODES = pytest.mark.parametrize("grad_mode", [True, False], ids=["grad", "no_grad"])

# What no kernel can read, whatever the argument.
UNREADABLE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a list": (lambda t: t.tolist(), r"must be a torch\.Tensor, got list"),
    "numpy": (lambda t: t.numpy(), r"must be a torch\.Tensor, got ndarray"),
    "a subclass": (lambda t: t.as_subclass(_Subclass), "is a _Subclass.*accepted are torch.Tensor"),
    "a fake tensor": (_fake, "is a FakeTensor.*accepted are torch.Tensor"),
    "a meta tensor": (lambda t: t.to("meta"), "has no storage.*device meta"),
    "sparse": (lambda t: t.to_sparse(), r"layout torch\.sparse_coo; accepted is torch\.strided"),
    "integers": (lambda t: t.long(), r"dtype torch\.int64; accepted are torch\.float32"),
    "complex numbers": (lambda t: t.cfloat(), r"dtype torch\.complex64; accepted are"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), r"dtype torch\.float8_e4m3fn; accepted are"),
    "a lazy negation": (torch._neg_view, "lazy .* negation; pass .*resolve_neg"),
    "a graph": (lambda t: t.requires_grad_(), r"requires grad.*torch\.no_grad\(\)"),
}


def _batch(param: Any = None, state: Any = None, grads: Any = None, **settings: Any) -> Any:
    param = _ones(6) if param is None else param
    state = _ones(6) if state is None else state
    grads = torch.arange(18.0).view(3, 6) if grads is None else grads
    return [param, state, grads], lambda: ops.batch_adagrad_step_(
        param, state, grads, lr=0.1, **settings
    )


def _moments(grads: Any, **settings: Any) -> Any:
    return [grads], lambda: ops.batch_moments(grads, **settings)


def _step(params: list[Any], grads: list[Any], sums: list[Any]) -> Any:
    return [params, grads, sums], lambda: ops.adagrad_step_(params, grads, sums, lr=0.1)


def _norm(params: list[Any], grads: list[Any], sums: Any) -> Any:
    return [params, grads, sums], lambda: ops.adagrad_norm_step_(params, grads, sums, lr=0.1)


def _total(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.float64)


def _lists(**replaced: Any) -> list[list[Any]]:
    """Two tensors of an update, the second of which is replaced."""
    names = ("param", "grad", "state_sum")
    return [[_ones(4), replaced.get(name, _ones(2, 3))] for name in names]


# Where in a call the unreadable argument stands; what comes before it is valid and would be
# written first by a careless op.
PLACES: dict[str, Callable[[Callable[[Tensor], Any]], Any]] = {
    "batch_moments(G)": lambda bad: _moments(bad(_ones(3, 6))),
    "batch_adagrad_step_(G)": lambda bad: _batch(grads=bad(_ones(3, 6))),
    "batch_adagrad_step_(param)": lambda bad: _batch(param=bad(_ones(6))),
    "batch_adagrad_step_(state_sum)": lambda bad: _batch(state=bad(_ones(6))),
    "adagrad_step_(param)": lambda bad: _step(*_lists(param=bad(_ones(2, 3)))),
    "adagrad_step_(grad)": lambda bad: _step(*_lists(grad=bad(_ones(2, 3)))),
    "adagrad_step_(state_sum)": lambda bad: _step(*_lists(state_sum=bad(_ones(2, 3)))),
    "adagrad_norm_step_(param)": lambda bad: _norm(*_lists(param=bad(_ones(2, 3)))[:2], _total()),
    "adagrad_norm_step_(grad)": lambda bad: _norm(*_lists(grad=bad(_ones(2, 3)))[:2], _total()),
    "adagrad_norm_step_(accumulator)": lambda bad: _norm(*_lists()[:2], bad(_total(1))),
    "adagrad_norm_step_(rows)": lambda bad: _norm(*_lists()[:2], [_total(4), bad(_ones(2))]),
}


def _assert_refused(call: Any, message: str, grad_mode: bool = True) -> None:
    """The error comes, with its message, and every tensor is as it was."""
    arguments, run = call
    real = [
        t for t in tensors(arguments)
        if type(t) is Tensor and t.layout is torch.strided and t.device.type == "cpu"
    ]  # fmt: skip
    before = [(tensor.detach().clone(), tensor._version) for tensor in real]
    with torch.set_grad_enabled(grad_mode), pytest.raises(ValueError, match=message):
        run()
    for tensor, (copy, version) in zip(real, before, strict=True):
        assert torch.equal(tensor.detach(), copy)
        assert tensor._version == version


@GRAD_MODES
@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("place", PLACES)
def test_refuses_what_no_kernel_can_read(place: str, what: str, grad_mode: bool) -> None:
    bad, message = UNREADABLE[what]
    if what == "a graph" and ("grad)" in place or not grad_mode):
        return  # a gradient that carries a graph is only read; without grad mode there is none
    if place.endswith("accumulator)") and "got" in message:
        message = "got 1 accumulators for 2 params"  # a sequence is one of accumulators
    if place.endswith(("rows)", "accumulator)")) and "dtype" in message:
        message = "accumulator has .*accepted is a contiguous float64 tensor"
    _assert_refused(PLACES[place](bad), message, grad_mode)


@GRAD_MODES
@pytest.mark.parametrize("place", PLACES)
def test_refuses_a_sharded_tensor(mesh: DeviceMesh, place: str, grad_mode: bool) -> None:
    def shard(tensor: Tensor) -> DTensor:
        return DTensor.from_local(tensor, mesh, [Replicate()])

    _assert_refused(PLACES[place](shard), r"is a DTensor.*to_local\(\)", grad_mode)


@GRAD_MODES
@pytest.mark.parametrize("place", PLACES)
def test_refuses_tensors_inside_a_transform(place: str, grad_mode: bool) -> None:
    """Inside vmap and grad a tensor stands for others, and has no memory of its own."""

    def call(inner: Tensor) -> Tensor:
        _, run = PLACES[place](lambda tensor: inner.sum() * tensor)
        run()
        return inner.sum()

    with torch.set_grad_enabled(grad_mode):
        for transform in (torch.func.vmap(call), torch.func.grad(call)):
            with pytest.raises(ValueError, match=r"no storage.*inside a torch\.func transform"):
                transform(_ones(1, 6))


def _strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    return torch.arange(1.0, 101.0).as_strided(shape, strides)


def _aliased(shift: int) -> tuple[Tensor, Tensor]:
    memory = torch.ones(20)
    return memory[:6], memory[shift : shift + 6]


ROWS: dict[str, tuple[Make, str]] = {
    # Per-sample gradients
    "1-D": (lambda: _moments(_ones(6)), r"must be 2-D \[samples, features\], got shape \(6,\)"),
    "3-D": (lambda: _batch(grads=_ones(3, 2, 3)), r"got shape \(3, 2, 3\); flatten"),
    "no samples": (lambda: _moments(_ones(0, 6)), "without samples; accepted is at least one"),
    "variance of one": (lambda: _moments(_ones(1, 6)), "at least two.*variance=False"),
    "step and variance of one": (lambda: _batch(grads=_ones(1, 6)), "at least two samples"),
    "columns apart": (lambda: _moments(_ones(6, 3).t()), r"strides \(1, 3\).*must be adjacent"),
    "one column thrice": (lambda: _moments(_ones(4, 1).expand(4, 3)), "must be adjacent"),
    # batch_adagrad_step_
    "length": (lambda: _batch(grads=torch.randn(3, 5)), r"5 features, but param .*6 elements"),
    "dtype of G": (lambda: _batch(grads=_ones(3, 6).double()), r"float64, but param has .*float32"),
    "dtype of state": (lambda: _batch(state=_ones(6).half()), "state_sum has dtype .*float16"),
    "shape of state": (lambda: _batch(state=_ones(2, 3)), r"shape \(2, 3\), but param has \(6,\)"),
    "overlapping param": (lambda: _batch(param=_ones(1).expand(6)), "overlap or leave holes"),
    "param with holes": (lambda: _batch(param=_strided((6,), (2,))), "overlap or leave holes"),
    "transposed param": (
        lambda: _batch(param=_strided((2, 3), (1, 2)), state=_strided((2, 3), (1, 2))),
        "must be contiguous",
    ),
    "state is param": (lambda: _batch(*_aliased(0)), "param and state_sum overlap in memory"),
    "state in param": (lambda: _batch(*_aliased(5)), "param and state_sum overlap in memory"),
    "param in G": (
        lambda: _batch(param=(g := torch.randn(3, 6))[1], grads=g),
        "param and per_sample_grads overlap in memory",
    ),
    "state in G": (
        lambda: _batch(state=(g := torch.randn(3, 6))[2], grads=g),
        "state_sum and per_sample_grads overlap in memory",
    ),
    # adagrad_step_
    "fewer grads": (lambda: _step([_ones(2)], [], [_ones(2)]), "equal lengths, got 1, 0 and 1"),
    "grad's dtype": (lambda: _step(*_lists(grad=_ones(2, 3).double())), "grad has dtype"),
    "state's dtype": (lambda: _step(*_lists(state_sum=_ones(2, 3).double())), "state_sum has dtyp"),
    "grad's shape": (lambda: _step(*_lists(grad=_ones(3, 2))), r"\(3, 2\), but param has \(2, 3\)"),
    "grad's order": (
        lambda: _step(*_lists(grad=_ones(3, 2).t())),
        r"strides \(1, 2\), but param has \(3, 1\).*same order",
    ),
    "grad expanded": (lambda: _step(*_lists(grad=_ones(1).expand(2, 3))), "overlap or leave holes"),
    "param expanded": (lambda: _step(*_lists(param=_ones(1).expand(2, 3))), "overlap or leave hol"),
    "param with gaps": (lambda: _step(*_lists(param=_strided((2, 3), (6, 2)))), "leave holes"),
    "sum is param": (
        lambda: _step([(p := _ones(4))], [_ones(4)], [p]),
        "param and state_sum overlap in memory",
    ),
    "grad in param": (
        lambda: _step([(m := _ones(20))[:6]], [m[3:9]], [_ones(6)]),
        "param and grad overlap in memory",
    ),
    "one param twice": (
        lambda: _step([_ones(6)] * 2, [_ones(6), _ones(6)], [_ones(6), _ones(6)]),
        "params holds the same tensor more than once",
    ),
    "one sum twice": (
        lambda: _step([_ones(6), _ones(6)], [_ones(6), _ones(6)], [_ones(6)] * 2),
        "state_sums holds the same tensor more than once",
    ),
    "grad in sum": (
        lambda: _step([_ones(6)], [(m := _ones(20))[:6]], [m[3:9]]),
        "grad.*overlap in memory",
    ),
    # adagrad_norm_step_
    "norm: sum in param": (
        lambda: _norm([(m := _total(9))[:6]], [_total(6)], m[3:4]),
        "overlap in memory",
    ),
    "norm: sum is param": (
        lambda: _norm([(p := _total(1))], [_total(1)], p.view(())),
        "overlap in memory",
    ),
    "norm: sum in grad": (
        lambda: _norm([_total(6)], [(m := _total(9))[:6]], m[3:4]),
        "overlap in memory",
    ),
    "norm: grad in param": (
        lambda: _norm([(m := _ones(20))[:6]], [m[3:9]], _total()),
        "overlap in memory",
    ),
    "norm: fewer grads": (lambda: _norm([_ones(2)], [], _total()), "equal lengths, got 1 and 0"),
    "norm: fewer rows": (
        lambda: _norm([_ones(2)], [_ones(2)], []),
        "got 0 accumulators for 1 params; accepted are one tensor in all, or a list",
    ),
    "norm: float32": (lambda: _norm([_ones(2)], [_ones(2)], _ones(1)), "accepted is .* float64"),
    "norm: two": (lambda: _norm([_ones(2)], [_ones(2)], _total(2)), r"shape \(2,\).* 1 element"),
    "norm: wrong rows": (
        lambda: _norm([_ones(2, 3)], [_ones(2, 3)], [_total(3)]),
        r"shape \(3,\).*float64 tensor with 2 element",
    ),
    "norm: strided rows": (
        lambda: _norm([_ones(2, 3)], [_ones(2, 3)], [_total(4)[::2]]),
        "accepted is a contiguous float64 tensor",
    ),
    "norm: rows of a transposed param": (
        lambda: _norm([_ones(3, 2).t()], [_ones(3, 2).t()], [_total(2)]),
        r"strides \(1, 2\); row-wise accumulators need contiguous",
    ),
}


@GRAD_MODES
@pytest.mark.parametrize("row", ROWS)
def test_refuses(row: str, grad_mode: bool) -> None:
    make, message = ROWS[row]
    _assert_refused(make(), message, grad_mode)


def test_refuses_two_devices() -> None:
    """A meta tensor stands for another device; it has no storage, which is said first."""
    with pytest.raises(ValueError, match="device meta"):
        ops.adagrad_step_([_ones(2).to("meta")], [_ones(2)], [_ones(2)], lr=0.1)
