"""The expressions of plain torch that ops are compared with."""

from __future__ import annotations

import pytest
import torch
from support.oracles import Moments, assert_within, shared_case

from benchmarks.ops import peers


@pytest.mark.parametrize("name", peers.EAGER)
@pytest.mark.parametrize("shape", [(2, 7), (9, 4099), (513, 1023)])
def test_the_expressions_we_compare_with_compute_the_same(
    name: str, shape: tuple[int, int]
) -> None:
    grads, expected = shared_case(*shape, torch.float32)
    for field, actual in zip(Moments._fields, peers.EAGER[name](grads), strict=True):
        value, tolerance = getattr(expected, field)
        assert_within(field, actual, value, 10 * tolerance)
