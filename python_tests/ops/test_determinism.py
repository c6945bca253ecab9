"""Bitwise the same from run to run and for any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.calls import CALLS, UPDATES, make_call

# Few and many rows, one tile and many; the calls' default lists for the other ops.
SHAPES = [(9, 4099), (70, 20_001), (3, 300_001), (700, 1500), (6000, 33)]
THREADS = (1, 2, 3)


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _bits(results: list[torch.Tensor]) -> list[bytes]:
    return [result.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for result in results]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CALLS[:4])
def test_statistics_do_not_depend_on_threads(
    backend: str, name: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    """In float64 every change of order shows; sums of float32 kept in float64 are often exact."""
    _assert_same_bits(backend, lambda: make_call(name, dtype, *shape)())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", UPDATES)
def test_updates_do_not_depend_on_threads(backend: str, dtype: torch.dtype, name: str) -> None:
    shapes = [(31, 33), (), (0, 5), (4099,), *[(n % 17, 3) for n in range(40)], (4, 50_001)]
    _assert_same_bits(backend, lambda: make_call(name, dtype, shapes=shapes)())


def _assert_same_bits(backend: str, run) -> None:
    torch.set_num_threads(2)
    first = _bits(run())
    assert _bits(run()) == first, "another run gives another result"
    if backend == "reference":
        return  # torch's own reductions split by the number of threads
    for threads in THREADS:
        torch.set_num_threads(threads)
        assert _bits(run()) == first, f"{threads} threads give another result"


def test_instruction_sets_agree(isa: str, dtype: torch.dtype) -> None:
    """Not bit by bit, since vectors of other widths add in another order, but closely."""
    from adadagrad_kernels import use_backend

    for name in CALLS:
        ours = make_call(name, dtype)()
        with use_backend("reference"):
            theirs = make_call(name, dtype)()
        close = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 2e-5}.get(dtype, 1e-12)
        for one, other in zip(ours, theirs, strict=True):
            largest = float(other.abs().max()) if other.numel() else 0.0
            torch.testing.assert_close(one, other, rtol=close, atol=close * max(1.0, largest))
