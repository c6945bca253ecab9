"""Lists that the CPU backend reads as a whole: which they are, and that nothing depends on it.

The quick way is to take what is plainly right, whatever the grad mode, and to leave the rest to the
checks, which say what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.calls import make_call, tensor_by_tensor, tensors
from torch import Tensor

from adadagrad_kernels import _native, ops, use_backend
from adadagrad_kernels.backends import cpu
from adadagrad_kernels.errors import BackendUnavailableError

pytestmark = [
    pytest.mark.skipif(_native.C is None, reason=str(_native.missing)),
    pytest.mark.skipif(
        not hasattr(Tensor, "__dlpack_c_exchange_api__"), reason="lists are read from torch 2.10 on"
    ),
]

KINDS = ("adagrad_step_", "adagrad_norm_step_", "adagrad_norm_step_ by rows")
GRAD_MODES = pytest.mark.parametrize("grad_mode", [True, False], ids=["grad", "no_grad"])

Lists = tuple[list[Any], list[Any], list[Any]]


@pytest.fixture
def quick_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of ops that were settled by reading whole lists; nothing else may run."""
    settled: list[str] = []

    def watched(name: str, quick: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
        def call(*arguments: Any) -> Tensor | None:
            result = quick(*arguments)
            if result is not None:
                settled.append(name)
            return result

        return call

    for name in ("adagrad_step_", "adagrad_norm_step_"):
        monkeypatch.setattr(cpu, f"quick_{name}", watched(name, getattr(cpu, f"quick_{name}")))
    return settled


def _lists(kind: str, count: int = 40) -> Lists:
    """Params, grads and accumulators, all of them plainly right."""
    params, grads = ([torch.randn(3, 2) for _ in range(count)] for _ in range(2))
    if kind == "adagrad_step_":
        return params, grads, [torch.ones(3, 2) for _ in range(count)]
    if kind == "adagrad_norm_step_":
        return params, grads, [torch.ones((), dtype=torch.float64)]
    return params, grads, [torch.ones(3, dtype=torch.float64) for _ in range(count)]


def _run(kind: str, lists: Lists) -> Tensor:
    params, grads, sums = lists
    if kind == "adagrad_step_":
        return ops.adagrad_step_(params, grads, sums, lr=0.1)
    accumulators = sums[0] if kind == "adagrad_norm_step_" else sums
    return ops.adagrad_norm_step_(params, grads, accumulators, lr=0.1)


@GRAD_MODES
@pytest.mark.parametrize("kind", KINDS)
def test_plain_tensors_are_read_as_a_whole(
    quick_calls: list[str], kind: str, grad_mode: bool
) -> None:
    with torch.set_grad_enabled(grad_mode):
        _run(kind, _lists(kind))
    assert quick_calls == [kind.partition(" ")[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_read_as_a_whole_without_grad_mode(
    quick_calls: list[str], kind: str
) -> None:
    params, grads, sums = _lists(kind)
    with torch.no_grad():
        _run(kind, ([torch.nn.Parameter(param) for param in params], grads, sums))
    assert quick_calls == [kind.partition(" ")[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_with_a_graph_are_only_read(quick_calls: list[str], kind: str) -> None:
    params, grads, sums = _lists(kind)
    grads[-1] = grads[-1].requires_grad_() * 2
    _run(kind, (params, grads, sums))
    assert quick_calls == [kind.partition(" ")[0]]


@pytest.mark.parametrize("found_inf", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_only_a_step_that_is_taken_is_settled(
    quick_calls: list[str], kind: str, found_inf: float
) -> None:
    call = make_call(kind)
    call.keywords["found_inf"] = torch.tensor(found_inf)
    call()
    assert len(quick_calls) == (found_inf == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_give_the_same_bits(
    quick_calls: list[str], kind: str, dtype: torch.dtype
) -> None:
    whole, single = make_call(kind, dtype), make_call(kind, dtype)
    results = whole()
    with tensor_by_tensor():
        expected = single()
    assert len(quick_calls) == 1
    for ours, theirs in zip(results, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_other_dense_layouts_are_left_to_the_checks(quick_calls: list[str], kind: str) -> None:
    params, grads, sums = _lists(kind)
    moved = torch.randn(2, 3).t()
    params[-1], grads[-1] = moved.clone(), moved.clone()
    if kind == "adagrad_step_":
        sums[-1] = moved.abs()
    before = params[-1].clone()
    _run(kind, (params, grads, sums))
    assert not quick_calls
    assert not torch.equal(params[-1], before)


def test_a_copy_that_is_made_when_written_is_made() -> None:
    """A lazy clone's memory is another tensor's until the clone is written."""
    original = torch.ones(3)
    clone = torch._lazy_clone(original)
    ops.adagrad_step_([clone], [torch.ones(3)], [torch.zeros(3)], lr=0.5)
    assert torch.equal(original, torch.ones(3))
    assert torch.allclose(clone, torch.full((3,), 0.5))


def _resized(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


def _within_another(lists: Lists) -> None:
    """The last accumulator begins in the middle of the last parameter."""
    params, _, sums = lists
    memory = torch.zeros(64, dtype=torch.uint8)
    params[-1] = memory[:24].view(torch.float32).view(3, 2)
    size = sums[-1].nbytes
    sums[-1] = memory[16 : 16 + size].view(sums[-1].dtype).view(sums[-1].shape)


def _within_gradient(lists: Lists) -> None:
    params, grads, _ = lists
    param = params[-1]
    _within_another(lists)
    params[-1], grads[-1] = param, params[-1]


def _replace(which: int, make: Callable[[Tensor], Any]) -> Callable[[Lists], None]:
    def change(lists: Lists) -> None:
        lists[which][-1] = make(lists[which][-1])

    return change


def _repeat(which: int) -> Callable[[Lists], None]:
    def change(lists: Lists) -> None:
        lists[which][-1] = lists[which][0]

    return change


def _shorten(which: int) -> Callable[[Lists], None]:
    return lambda lists: lists[which].pop()


# What may be wrong with a tensor, and what the checks say.
BAD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "None": (lambda t: None, r"must be a torch\.Tensor, got NoneType"),
    "functional": (torch._to_functional_tensor, "has no storage"),
    "without memory": (_resized, "has no storage"),
    "a lazy negation": (torch._neg_view, "lazy .* negation"),
    "a detached lazy negation": (lambda t: torch._neg_view(t).data, "lazy .* negation"),
    "uninitialized": (
        lambda t: torch.nn.UninitializedParameter(requires_grad=False),
        "is a UninitializedParameter",
    ),
    "integers": (lambda t: t.long(), "dtype"),
    "another dtype": (lambda t: t.bfloat16(), "dtype"),
    "another shape": (lambda t: t[:-1].clone() if t.dim() else t.expand(2).clone(), "shape"),
    "another number of dimensions": (lambda t: t[None].clone(), "shape"),
    "expanded": (
        lambda t: torch.ones(1, dtype=t.dtype).expand(t.shape if t.dim() else 2),
        "overlap or leave holes|accepted is a contiguous",
    ),
}  # fmt: skip

CHANGES: dict[str, tuple[Callable[[Lists], None], str]] = {
    f"{name}: {what}": (_replace(which, make), message)
    for which, name in enumerate(("params", "grads", "accumulators"))
    for what, (make, message) in BAD.items()
}
CHANGES |= {
    "fewer grads": (_shorten(1), "equal lengths"),
    "fewer accumulators": (_shorten(2), "equal lengths|0 accumulators|39 accumulators"),
    "one param twice": (_repeat(0), "params holds the same tensor more than once"),
    "one accumulator twice": (_repeat(2), "s holds the same tensor more than once"),
    "grad is param": (lambda lists: lists[1].__setitem__(-1, lists[0][-1]), "overlap in memory"),
    "accumulator in param": (_within_another, "overlap in memory"),
    "accumulator in grad": (_within_gradient, "overlap in memory"),
}


def _is_right(kind: str, what: str) -> bool:
    """Whether a change leaves what the op takes."""
    if what == "accumulators: another number of dimensions":
        return kind != "adagrad_step_"  # a number, or numbers, of any shape
    # One accumulator in all is not a list that could be shorter, or hold the same tensor twice.
    none = ("accumulators: None", "fewer accumulators", "one accumulator twice")
    return kind == "adagrad_norm_step_" and what in none


@GRAD_MODES
@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_checks_refuse_is_refused(
    quick_calls: list[str], kind: str, what: str, grad_mode: bool
) -> None:
    """One tensor at the end of a long list is wrong, everything else plainly right."""
    if _is_right(kind, what):
        return
    change, message = CHANGES[what]
    lists = _lists(kind)
    change(lists)
    plain = [t for t in tensors(lists) if type(t) is Tensor and t.data_ptr()]
    before = [(t.clone(), t._version) for t in plain]
    with torch.set_grad_enabled(grad_mode), pytest.raises(ValueError, match=message):
        _run(kind, lists)
    assert not quick_calls
    for tensor, (copy, version) in zip(plain, before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor._version == version


@pytest.mark.parametrize("which", [0, 2], ids=["param", "accumulator"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_would_be_lost_is_refused(
    quick_calls: list[str], kind: str, which: int
) -> None:
    lists = _lists(kind)
    lists[which][-1].requires_grad_()
    before = [tensor.detach().clone() for tensor in tensors(lists)]
    with pytest.raises(ValueError, match=r"requires grad.*torch\.no_grad\(\)"):
        _run(kind, lists)
    assert not quick_calls
    for tensor, copy in zip(tensors(lists), before, strict=True):
        assert torch.equal(tensor.detach(), copy)
    with torch.no_grad():
        _run(kind, lists)
    assert len(quick_calls) == 1


@GRAD_MODES
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_with_a_tensor_is_said_before_what_is_wrong_with_a_backend(
    kind: str, grad_mode: bool
) -> None:
    with torch.set_grad_enabled(grad_mode), use_backend("cuda"):
        with pytest.raises(BackendUnavailableError):
            _run(kind, _lists(kind))
        lists = _lists(kind)
        lists[1][-1] = lists[1][-1].long()
        with pytest.raises(ValueError, match="dtype"):
            _run(kind, lists)


@GRAD_MODES
def test_what_has_no_length_is_no_list(grad_mode: bool) -> None:
    params, grads, sums = _lists("adagrad_step_")
    with torch.set_grad_enabled(grad_mode), pytest.raises(TypeError, match="has no len"):
        ops.adagrad_step_(params, iter(grads), sums, lr=0.1)
