"""What no kernel can address, in the place of each tensor of every op: refused, nothing written.

The tests of refusals have the words for each argument. Here nothing is listed by hand: calls are
those of every op, and each of their tensors is replaced in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.calls import CALLS, Call, make_call, tensors
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DeviceMesh, DTensor, Replicate
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.testing._internal.two_tensor import TwoTensor

from adadagrad_kernels import _native, ops


class _Subclass(Tensor):
    pass


def _fake(tensor: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(tensor)


def _sharded(tensor: Tensor) -> Tensor:
    return DTensor.from_local(tensor, DeviceMesh("cpu", [0]), [Replicate()])


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "another device": lambda tensor: tensor.to("meta"),
    "fake": _fake,
    "sharded": _sharded,
    "subclass": lambda tensor: tensor.as_subclass(_Subclass),
    "two in one": lambda tensor: TwoTensor(tensor, tensor),
    "sparse": lambda tensor: tensor.to_sparse(),
    "other elements": lambda tensor: tensor.to(torch.complex64),
}
#: Of torch's dispatcher, which unpacks what has elements of its own before an op is asked.
THROUGH_TORCH = ("another device", "subclass", "sparse", "other elements")


@pytest.fixture(scope="module", autouse=True)
def ranks() -> Iterator[None]:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def _replaced(
    tree: Any, kind: Callable[[Tensor], Tensor], place: int, counter: Iterator[int]
) -> Any:
    """The same tree, but for the tensor that is counted as ``place``."""
    if isinstance(tree, Tensor):
        return kind(tree) if next(counter) == place else tree
    if isinstance(tree, dict):
        return {key: _replaced(value, kind, place, counter) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        branches = [_replaced(branch, kind, place, counter) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return tree


def _small(name: str) -> Call:
    return make_call(name, samples=3, features=20, shapes=[(4,), (3, 2)])


def _assert_refused(name: str, kind: str, function: str, given: tuple[str, ...]) -> None:
    """Each tensor of these parts of the call replaced in turn."""
    call, place, places = _small(name), 0, 1
    while place < places:
        parts = [getattr(call, part) for part in given]
        found = list(tensors(parts))
        places, before = len(found), [tensor.clone() for tensor in found]
        arguments, *keywords = _replaced(parts, KINDS[kind], place, iter(range(places)))
        with pytest.raises(ValueError, match=r"accepted|must (be|agree)|no storage"):
            getattr(call, function)(*arguments, **(keywords[0] if keywords else {}))
        assert all(map(torch.equal, found, before)), f"something was written, at {place}"
        place += 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_refused(name: str, kind: str) -> None:
    _assert_refused(name, kind, "function", ("arguments", "keywords"))


@pytest.mark.parametrize("kind", THROUGH_TORCH)
@pytest.mark.parametrize("name", [name for name in CALLS if name != "batch_moments"])
def test_refused_through_torch_ops(name: str, kind: str) -> None:
    _assert_refused(name, kind, "operator", ("positional",))


def test_every_op_has_a_call() -> None:
    """So that a new one is in these tables, and in that of torch's defaults."""
    assert {name.partition(" ")[0] for name in CALLS} == {
        name for name in ops.__all__ if name[0].islower()
    }


#: Of the compiled module: what takes no address, and what only benchmarks call.
NO_KERNELS = {
    *("active_isa", "compiled_isas", "supported_isas", "use_isa", "use_openmp"),
    *("use_tensor_exchange", "stream_read"),
}


def test_every_kernel_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    if _native.C is None:
        pytest.skip(str(_native.missing))
    called = set()

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            called.add(name)
            return function(*arguments)

        return call

    functions = {
        name: value
        for name, value in vars(_native.C).items()
        if callable(value) and not isinstance(value, type) and not name.startswith("_")
    }
    assert functions.keys() > NO_KERNELS
    for name, function in functions.items():
        monkeypatch.setattr(_native.C, name, noted(name, function))
    for name in CALLS:
        for dtype in (torch.float32, torch.bfloat16):
            make_call(name, dtype)()
    assert called == functions.keys() - NO_KERNELS
