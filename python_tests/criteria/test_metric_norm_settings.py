"""MetricNormTest: its text, and settings that are missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adadagrad_kernels.criteria import MetricNormTest


def test_text_without_an_address() -> None:
    params = {"w": nn.Parameter(torch.zeros(2))}
    test = MetricNormTest(0.5, "adagrad", torch.optim.Adagrad(params.values()), params)
    assert repr(test) == "MetricNormTest(eta=0.5, metric='adagrad')"


def test_settings_that_are_missing() -> None:
    params = {"w": nn.Parameter(torch.zeros(2))}
    optimizer = torch.optim.Adagrad(params.values())
    with pytest.raises(ValueError, match=r"metric must be 'adagrad', 'adam' or 'sign', got 'sgd'"):
        MetricNormTest(0.5, "sgd")
    for given, lacking in (
        ({"parameters": params}, "optimizer"),
        ({"optimizer": optimizer}, "par"),
    ):
        with pytest.raises(
            ValueError, match=rf"model\.named_parameters\(\); {lacking}.* is missing"
        ):
            MetricNormTest(0.5, "adagrad", **given)
