"""bfloat16 and half: every value widened, and floats rounded to the nearest, ties to even."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ladder_arrays import aligned, call, filled
from numpy.typing import NDArray

from gpu_ladder.emulated import Emulated

TYPES = {"bfloat16": torch.bfloat16, "half": torch.float16}


def floats() -> NDArray[np.float32]:
    """Of every exponent and sign, at, just above and just below what either type can tell apart."""
    rng = np.random.default_rng(0)
    random = rng.integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)
    exponents = np.arange(256, dtype=np.uint32) << 23
    ties = [
        exponents | np.uint32(mantissa & 0x7FFFFF)
        for bit in range(23)
        for mantissa in (1 << bit, (1 << bit) - 1, (1 << bit) + 1, (3 << bit), (3 << bit) + 1)
    ]
    bits = np.concatenate([random, exponents, *ties])
    return np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)


@pytest.mark.parametrize("name", TYPES)
def test_every_value_widened(plain: Emulated, name: str) -> None:
    bits = filled(np.arange(1 << 16, dtype=np.uint16))
    out = aligned(bits.size)
    assert call(plain, f"widen_{name}", bits, out, bits.size) == 0
    expected = torch.from_numpy(bits.view(np.int16)).view(TYPES[name]).float().numpy()
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(out.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])
    assert np.isnan(out[~numbers]).all()


@pytest.mark.parametrize("name", TYPES)
def test_floats_rounded(plain: Emulated, name: str) -> None:
    values = filled(floats())
    out = aligned(values.size, np.uint16)
    assert call(plain, f"narrow_{name}", values, out, values.size) == 0
    expected = torch.from_numpy(values).to(TYPES[name]).view(torch.int16).numpy().view(np.uint16)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(out[numbers], expected[numbers])
    assert (out[~numbers] == 0x7FFF).all()  # the one NaN of the device


def test_half_agrees_with_numpy(plain: Emulated) -> None:
    values = filled(floats())
    out = aligned(values.size, np.uint16)
    assert call(plain, "narrow_half", values, out, values.size) == 0
    numbers = ~np.isnan(values)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(out[numbers], expected[numbers])
