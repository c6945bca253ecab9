"""Linear layers of any shape, against one sample at a time."""

from __future__ import annotations

import pytest
from support.layer_records import assert_measured, normal
from torch import nn

LINEAR = [(7,), (6, 7), (2, 3, 7), (2, 1, 3, 7), (1, 7)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", LINEAR, ids=str)
def test_linear_with_any_leading_dimensions(shape: tuple[int, ...], bias: bool) -> None:
    assert_measured(nn.Linear(7, 3, bias=bias).double(), normal(*shape), on_other="raise")
