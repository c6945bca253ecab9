"""Inputs without rows of their own for the samples, and batches of other sizes than the first."""

from __future__ import annotations

import torch
from support.refusals import refused
from support.shares import Shares
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 6


def test_a_last_chunk_of_one_sample_with_a_common_backward() -> None:
    """It is not a row that all samples of the first chunk share: the loss would change."""
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(B, 4)
    with refused(model, "1 rows", "a backward pass each"), layer_statistics(model):
        (model(x[1:]).square().sum() + model(x[:1]).square().sum()).backward()
    with layer_statistics(model) as recorder:
        for chunk in (x[1:], x[:1]):
            model(chunk).square().sum().backward()
        assert recorder.statistics().batch_size == B


def test_a_forward_pass_that_is_not_to_count() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(B, 4)
    with refused(model, "reset()"), layer_statistics(model):
        model(x[:2])
        model(x)
    with layer_statistics(model) as recorder:
        model(x[:2])
        recorder.reset()
        model(x).sum().backward()
        assert recorder.statistics().batch_size == B


def test_layers_called_by_themselves_after_the_model() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(B, 4)
    with layer_statistics(model) as recorder:
        model(x).sum().backward()
        model[0](x[:4]).sum().backward()
        assert recorder.statistics().batch_size == B + 4


def test_a_model_that_mixes_samples_after_a_batch_of_one() -> None:
    class Centred(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            return output - output.mean(0)

    model = nn.Sequential(Centred(4, 3))
    with (
        refused(model, "layer '0' (Centred)", "mixes", kind=UnsupportedModelError),
        layer_statistics(model) as recorder,
    ):
        model(torch.randn(1, 4)).square().sum().backward()
        recorder.statistics()
        model.zero_grad()
        model(torch.randn(B, 4))


def test_group_norm_of_a_transposed_input() -> None:
    model = nn.Sequential(nn.GroupNorm(1, 5), nn.ReLU(inplace=True)).double()
    x = torch.randn(B, 3, 5, dtype=torch.float64).transpose(1, 2)
    expected = Shares(model, lambda i: model(x[i : i + 1]).square().sum(), B)
    with layer_statistics(model, variance=True) as recorder:
        model(x).square().sum().backward()
        expected.check(model, recorder.statistics(), 1e-9)
