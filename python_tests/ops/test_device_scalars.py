"""Learning rate, gradient scale and overflow flag as tensors beside the parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.calls import UPDATES, Call, make_call, tensors

SHAPES = [(31, 33), (4099,), (), (0,)]


def _call(name: str, **changed: Any) -> Call:
    call = make_call(name, torch.float32, shapes=SHAPES)
    call.keywords.update(changed)
    return call


def _bits(results: list[torch.Tensor]) -> list[bytes]:
    return [result.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for result in results]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-d", "1-d"])
@pytest.mark.parametrize("name", UPDATES)
def test_tensors_do_what_numbers_do(
    backend: str, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    numbers = {"lr": 0.375, "grad_scale": 8.0}
    given = {key: torch.full(shape, value, dtype=dtype) for key, value in numbers.items()}
    plain = _call(name, **numbers)()
    assert _bits(_call(name, **given)()) == _bits(plain)
    flag = torch.zeros(shape, dtype=dtype)
    assert _bits(_call(name, **given, found_inf=flag)()) == _bits(plain)


@pytest.mark.parametrize("name", UPDATES)
def test_a_flag_leaves_everything_as_it_was(backend: str, name: str) -> None:
    """Whatever the gradients are: here one is infinite, as when a scaled loss overflows."""
    call = _call(name, found_inf=torch.ones(()))
    call.read["grads"][0][3, 5] = float("inf")
    before = [tensor.clone() for tensor in tensors(call.written)]
    sq_norm, *after = call()
    assert not sq_norm.isfinite()
    assert _bits(after) == _bits(before)


@pytest.mark.parametrize("name", UPDATES)
def test_the_norm_of_a_skipped_step_is_that_of_its_gradients(backend: str, name: str) -> None:
    expected = _call(name)()[0]
    skipped = _call(name, found_inf=torch.ones(1))()[0]
    assert skipped.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("which", ["lr", "grad_scale", "found_inf"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(2), r"shape \(2,\)"),
        (torch.ones((), dtype=torch.int64), "dtype torch.int64"),
        (torch.ones((), device="meta"), "no storage"),
    ],
    ids=["two", "integer", "elsewhere"],
)
def test_other_tensors_are_refused(
    backend: str, name: str, which: str, value: torch.Tensor, said: str
) -> None:
    call = _call(name, **{which: value})
    before = [tensor.clone() for tensor in tensors(call.written)]
    with pytest.raises(ValueError, match=f"{which}.*{said}"):
        call()
    assert _bits(list(tensors(call.written))) == _bits(before)


@pytest.mark.parametrize("name", UPDATES[::2])
def test_they_pass_through_the_compiler(name: str) -> None:
    rate = torch.tensor(0.25)
    flag = torch.zeros(())
    eager, compiled = _call(name, lr=rate, found_inf=flag), _call(name, lr=rate, found_inf=flag)
    expected = eager()
    function = torch.compile(compiled.function, backend="aot_eager", fullgraph=True)
    result = function(*compiled.arguments, **compiled.keywords)
    actual = [*tensors(result), *tensors(compiled.written)]
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
