"""What torch's own defaults may change: the device and the type of new tensors, and grad modes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from support.calls import CALLS, make_call
from torch import Tensor, nn

from adadagrad_kernels import optim
from adadagrad_kernels.statistics import PerSampleGradients, layer_statistics


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


#: With "meta" as with "cuda": what forgets its device has an address that is none of the CPU's.
SETTINGS = {
    "device": lambda: torch.device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
}
settings = pytest.mark.parametrize("setting", SETTINGS)


@settings
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_ops(name: str, dtype: torch.dtype, setting: str) -> None:
    expected = make_call(name, dtype)()
    call = make_call(name, dtype)
    with SETTINGS[setting]():
        results = call()
    torch.testing.assert_close(results, expected, rtol=0, atol=0)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.LayerNorm(6), nn.Flatten(), nn.Linear(24, 3), nn.PReLU()
    )


def steps(setting: str | None) -> list[Tensor]:
    """Two steps with every statistic of the layers and of vmap, and what they have moved."""
    torch.manual_seed(2)
    inputs, targets = torch.randn(5, 2, 6), torch.randn(5, 3)
    model, found = network(), []
    optimizer = optim.Adagrad(model.parameters(), lr=0.1)
    of_norms = optim.AdagradNorm(model.parameters(), lr=0.1)
    with SETTINGS[setting]() if setting else contextlib.nullcontext():
        measuring = layer_statistics(model, variance=True, inner_products=True)
        for _ in range(2):
            with measuring as recorder:
                nn.functional.mse_loss(model(inputs), targets).backward()
                record = recorder.statistics()
            assert record is not None
            assert record.inner_products is not None
            assert record.variance is not None
            found += [record.sq_norms, record.inner_products, *record.variance.values()]
            optimizer.step()
            of_norms.step()
            model.zero_grad()
        by_vmap = PerSampleGradients(model, nn.functional.mse_loss, variance=True)
        found.append(by_vmap.backward(inputs, targets).sq_norms)
    return [*found, *(parameter.detach() for parameter in model.parameters())]


@pytest.mark.parametrize("setting", ["device", "float64", "bfloat16"])
def test_training(setting: str) -> None:
    torch.testing.assert_close(steps(setting), steps(None), rtol=0, atol=0)


def sparse_gradients(setting: str | None) -> list[Tensor]:
    """Of embeddings: one as it is measured, one as ``EmbeddingMean`` rescales it."""
    torch.manual_seed(3)
    measured, rescaled = (nn.Embedding(7, 3, sparse=True) for _ in range(2))
    indices = torch.tensor([[0, 2], [2, 5], [2, 0]])
    with SETTINGS[setting]() if setting else contextlib.nullcontext():
        with layer_statistics(measured) as recorder:
            measured(indices).square().mean().backward()
            recorder.statistics()
        with optim.EmbeddingMean(rescaled) as mean:
            rescaled(indices).square().mean().backward()
            mean.rescale_()
    grads = [embedding.weight.grad for embedding in (measured, rescaled)]
    assert all(grad is not None and grad.is_sparse for grad in grads)
    return [grad.to_dense() for grad in grads if grad is not None]


@pytest.mark.parametrize("setting", ["device", "float64", "bfloat16"])
def test_sparse_gradients(setting: str) -> None:
    torch.testing.assert_close(sparse_gradients(setting), sparse_gradients(None), rtol=0, atol=0)
