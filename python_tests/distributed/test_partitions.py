"""Parameters as DeepSpeed's ZeRO stage 3 leaves them are refused by name, by every source.

``python_tests/integrations/test_deepspeed.py`` has the real ones, where DeepSpeed is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import mse_loss

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import LocalGradients

SOURCES: dict[str, Callable[[torch.nn.Module], Any]] = {
    "layer_statistics": lambda model: adk.layer_statistics(model, ranks="local"),
    "PerSampleGradients": lambda model: adk.PerSampleGradients(model, mse_loss, ranks="local"),
    "MicroBatchGradients": adk.MicroBatchGradients,
    "LocalGradients": LocalGradients,
}


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_names_the_parameter_and_the_way_out(source: str) -> None:
    model = torch.nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.ds_tensor = parameter.detach()[:1]
        parameter.data = torch.empty(0)  # nothing is left where it was
    with pytest.raises(adk.UnsupportedModelError, match=r"'weight'.*stage 3.*stage 0 or 1") as said:
        SOURCES[source](model)
    assert source in str(said.value)
