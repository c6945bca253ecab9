"""Modules of other kinds and bare parameters, against one sample at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.layer_records import assert_measured, normal
from torch import Tensor, nn
from torch.nn.utils import prune


class Scaled(nn.Module):
    """Parameters outside of any layer: a table that is added, a scale, and one for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 3, 4))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.gain = nn.Parameter(torch.randn(4))
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.inner(x + self.table) * self.gain


OTHERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("bare parameters", Scaled, (3, 4)),
    ("inside", lambda: nn.Sequential(nn.Linear(4, 4), Scaled(), nn.Linear(4, 2)), (3, 4)),
    ("transposed convolution", lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), (4, 4, 4)),
    ("PReLU", lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(4)), (4,)),
    ("InstanceNorm", lambda: nn.InstanceNorm1d(4, affine=True), (4, 5)),
    ("frozen BatchNorm", lambda: nn.BatchNorm1d(4).eval(), (4, 5)),
    ("weight norm", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (3, 4)),
    ("added keys", lambda: _AddedKeys(), (3, 4)),
    ("cell", lambda: nn.GRUCell(4, 3), (4,)),
    ("older weight norm", lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3))), (3, 4)),
    ("pruned", lambda: _pruned(), (3, 4)),
]


def _pruned() -> nn.Module:
    layer = nn.Conv1d(3, 4, 2)
    prune.random_unstructured(layer, "weight", amount=0.5)
    return nn.Sequential(layer, nn.GroupNorm(1, 4))


class _AddedKeys(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return output


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("make", "shape"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_other_modules(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert_measured(make().double(), normal(*shape))


def test_other_modules_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner products of several chunks take a second pass."""
    from adadagrad_kernels.statistics.measuring import pending

    monkeypatch.setattr(pending, "_CHUNK_BYTES", 300)
    assert_measured(Scaled().double(), normal(3, 4))
