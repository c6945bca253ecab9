"""Convolutions of every setting, against one sample at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.layer_records import assert_measured, normal
from torch import nn

CONVOLUTIONS: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv1d, {"kernel_size": 3}, (9,)),
    (nn.Conv1d, {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2}, (11,)),
    (nn.Conv1d, {"kernel_size": 4, "padding": "same"}, (9,)),
    (nn.Conv1d, {"kernel_size": 3, "groups": 2, "padding": 1, "padding_mode": "circular"}, (9,)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1}, (5, 6)),
    (nn.Conv2d, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2)}, (6, 5)),
    (nn.Conv2d, {"kernel_size": 3, "groups": 2, "dilation": (2, 1)}, (7, 6)),
    (nn.Conv2d, {"kernel_size": 3, "groups": 4, "bias": False}, (5, 5)),
    (nn.Conv2d, {"kernel_size": (3, 2), "padding": "same", "dilation": (1, 3)}, (5, 6)),
    (nn.Conv2d, {"kernel_size": 3, "padding": "valid", "bias": False}, (5, 6)),
    (nn.Conv2d, {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"}, (5, 6)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"}, (5, 6)),
    (nn.Conv2d, {"kernel_size": 1}, (3, 4)),
    (nn.Conv3d, {"kernel_size": 2, "stride": (1, 2, 1), "padding": (0, 1, 1)}, (3, 4, 3)),
    (nn.Conv3d, {"kernel_size": (1, 3, 2), "groups": 2}, (2, 4, 3)),
]


@pytest.mark.parametrize(
    ("kind", "settings", "shape"),
    CONVOLUTIONS,
    ids=[f"{k.__name__} {s}" for k, s, _ in CONVOLUTIONS],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_convolutions(kind: Any, settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_measured(kind(4, 8, **settings).double(), normal(4, *shape), on_other="raise")


def test_convolution_in_channels_last() -> None:
    model = nn.Conv2d(4, 6, 3, padding=1).double().to(memory_format=torch.channels_last)
    inputs = normal(4, 5, 6).contiguous(memory_format=torch.channels_last)
    assert_measured(model, inputs, on_other="raise")
