"""LayerNorm, RMSNorm and GroupNorm, against one sample at a time."""

from __future__ import annotations

import pytest
from support.layer_records import assert_measured, normal
from torch import nn

NORMS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.LayerNorm(6), (6,)),
    (nn.LayerNorm(6), (4, 6)),
    (nn.LayerNorm((4, 6)), (3, 4, 6)),
    (nn.LayerNorm(6, bias=False), (4, 6)),
    (nn.RMSNorm(6), (4, 6)),
    (nn.RMSNorm((4, 6), eps=1e-3), (2, 4, 6)),
    (nn.GroupNorm(3, 6), (6,)),
    (nn.GroupNorm(3, 6), (6, 4)),
    (nn.GroupNorm(2, 6), (6, 3, 4)),
    (nn.GroupNorm(6, 6), (6, 3, 2, 2)),
]


@pytest.mark.parametrize(("model", "shape"), NORMS, ids=[f"{m} {s}" for m, s in NORMS])
def test_normalisations(model: nn.Module, shape: tuple[int, ...]) -> None:
    model = model.double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert_measured(model, 3 + 2 * normal(*shape), on_other="raise")
