"""PerSampleGradients against plain autograd, one sample at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import sample_models
from support.sample_loop import SampleLoop
from torch import Tensor, nn

from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import (
    PerSampleGradients,
    backward_with_statistics,
    per_sample,
)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


def plain_backward(case: sample_models.Case, times: int = 1) -> dict[str, Tensor | None]:
    case.model.zero_grad()
    for _ in range(times):
        case.loss_fn(case.model(case.inputs), case.targets).backward()
    found = gradients(case.model)
    case.model.zero_grad()
    return found


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 7])
@pytest.mark.parametrize("name", sample_models.NAMES)
def test_every_statistic_and_the_gradient(name: str, chunk_size: int | None) -> None:
    case = sample_models.make(name)
    expected = plain_backward(case)
    source = PerSampleGradients(case.model, case.loss_fn, inner_products=True, variance=True)
    source.chunk_size = chunk_size
    statistics = source.backward(case.inputs, case.targets)
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    loop.check(statistics, inner_products=True, variance=True)
    torch.testing.assert_close(gradients(case.model), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_measures_only_what_was_asked(chunk_size: int | None) -> None:
    case = sample_models.make("linear")
    source = PerSampleGradients(case.model, case.loss_fn)
    source.chunk_size = chunk_size
    statistics = source.backward(case.inputs, case.targets)
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    loop.check(statistics, inner_products=False, variance=False)


def test_gradients_accumulate_scaled_and_apart_from_the_record() -> None:
    case = sample_models.make("mixed")
    expected = plain_backward(case, times=2)
    source = PerSampleGradients(case.model, case.loss_fn)
    statistics = source.backward(case.inputs, case.targets, scale=0.5)
    again = source.backward(case.inputs, case.targets, scale=1.5)
    torch.testing.assert_close(gradients(case.model), expected, rtol=1e-10, atol=1e-12)
    assert again.mean_sq_norm == statistics.mean_sq_norm
    case.model.zero_grad(set_to_none=False)
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    loop.check(statistics, inner_products=False, variance=False)


def test_gradients_take_the_layout_of_the_parameters() -> None:
    case = sample_models.make("convolution")
    expected = plain_backward(case)
    case.model.to(memory_format=torch.channels_last)
    PerSampleGradients(case.model, case.loss_fn).backward(case.inputs, case.targets)
    torch.testing.assert_close(gradients(case.model), expected, rtol=1e-10, atol=1e-12)
    for parameter in case.model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
        assert not parameter.grad.requires_grad


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_sample_without_gradient_is_not_a_parameter_outside_the_graph(
    chunk_size: int | None,
) -> None:
    model = nn.Linear(3, 2, bias=False)
    inputs, targets = torch.randn(4, 3), torch.randn(4, 2)
    inputs[::2] = 0.0
    F.mse_loss(model(inputs), targets).backward()
    expected, model.weight.grad = model.weight.grad, None
    source = PerSampleGradients(model, F.mse_loss)
    source.chunk_size = chunk_size
    source.backward(inputs, targets)
    torch.testing.assert_close(model.weight.grad, expected)


@pytest.mark.parametrize(("chunk_size", "in_the_same_pass"), [(None, True), (3, False)])
def test_inner_products_are_measured_once(
    chunk_size: int | None, in_the_same_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()

    def noting(rows: Tensor, **keywords: Any) -> Any:
        asked.add(keywords["inner_products"])
        return batch_moments(rows, **keywords)

    monkeypatch.setattr(per_sample, "batch_moments", noting)
    case = sample_models.make("linear")
    source = PerSampleGradients(case.model, case.loss_fn, inner_products=True)
    source.chunk_size = chunk_size
    assert source.backward(case.inputs, case.targets).inner_products is not None
    assert asked == {in_the_same_pass}


def test_samples_drop_out_independently() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(50, 1))
    statistics = backward_with_statistics(
        model, lambda output, _: output.mean(), torch.ones(4, 50), torch.zeros(4)
    )
    assert statistics.sq_norms is not None
    assert statistics.variance_norm > 10.0


@pytest.mark.parametrize("max_bytes", [1, 44, 45, 100, 10**9])
def test_per_sample_gradients_stay_within_max_bytes(
    max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []

    def counting(rows: Tensor, **keywords: Any) -> Any:
        calls.append((len(rows), rows.numel() * rows.element_size()))
        return batch_moments(rows, **keywords)

    monkeypatch.setattr(per_sample, "batch_moments", counting)
    model = nn.Linear(4, 2)  # 8 + 2 numbers, 40 bytes a sample
    inputs, targets = torch.randn(90, 4), torch.randn(90, 2)
    source = PerSampleGradients(model, F.mse_loss, max_bytes=max_bytes)
    assert source.bytes_per_sample == 40
    source.backward(inputs, targets)
    chunks = [a + b for (_, a), (_, b) in zip(calls[::2], calls[1::2], strict=True)]
    assert max(chunks) <= max(max_bytes, 40)
    assert max(chunks) > max_bytes - 40 or max(chunks) == 90 * 40  # and use what is allowed
    assert sum(samples for samples, _ in calls) == 2 * 90


def test_large_batches_are_cut_unless_one_pass_gives_inner_products() -> None:
    model = nn.Linear(1024, 1024)  # 4.2 MB a sample
    source = PerSampleGradients(model, F.mse_loss, max_bytes=2**30)
    assert source.samples_per_chunk(200) == 16
    source.inner_products = True
    assert source.samples_per_chunk(200) == 200
    assert source.samples_per_chunk(400) == 16
    source.max_bytes = 2**25
    assert source.samples_per_chunk(200) == 7
    source.chunk_size = 50
    assert source.samples_per_chunk(200) == 50
    assert source.samples_per_chunk(20) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_lower_precision(dtype: torch.dtype, chunk_size: int | None) -> None:
    case = sample_models.make("linear")
    model = nn.Linear(3, 2, dtype=dtype)
    inputs, targets = case.inputs.to(dtype), case.targets.to(dtype)
    source = PerSampleGradients(model, F.mse_loss, inner_products=True, variance=True)
    source.chunk_size = chunk_size
    statistics = source.backward(inputs, targets)
    # Each element of a gradient is rounded once from exact products of the same inputs.
    loop = SampleLoop.run(model, F.mse_loss, inputs, targets)
    tolerance = 8 * torch.finfo(dtype).eps
    loop.check(statistics, inner_products=True, variance=True, rtol=tolerance)
    assert statistics.mean_gradient is not None
    assert statistics.mean_gradient["weight"].dtype is torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, statistics.mean_gradient[name].to(dtype))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_reach_the_record(value: float) -> None:
    case = sample_models.make("linear")
    case.inputs[4, 1] = value
    for chunk_size in (None, 2):
        source = PerSampleGradients(case.model, case.loss_fn, inner_products=True, variance=True)
        source.chunk_size = chunk_size
        statistics = source.backward(case.inputs, case.targets)
        assert not statistics.is_finite
        assert not torch.isfinite(torch.tensor(statistics.mean_sq_norm))


def test_batch_of_one_has_a_gradient_but_no_variance() -> None:
    case = sample_models.make("linear")
    case.inputs, case.targets = case.inputs[:1], case.targets[:1]
    expected = plain_backward(case)
    source = PerSampleGradients(case.model, case.loss_fn, inner_products=True, variance=True)
    statistics = source.backward(case.inputs, case.targets)
    torch.testing.assert_close(gradients(case.model), expected)
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    loop.check(statistics, inner_products=True, variance=True)
    with pytest.raises(ValueError, match="a variance needs at least two samples"):
        _ = statistics.variance_norm


def test_inputs_that_require_grad_leave_no_graph() -> None:
    case = sample_models.make("linear")
    statistics = backward_with_statistics(
        case.model, case.loss_fn, case.inputs.requires_grad_(), case.targets, variance=True
    )
    assert case.inputs.grad is None
    assert statistics.variance is not None
    assert not any(v.requires_grad for v in statistics.variance.values())
    assert case.model.weight.requires_grad
    assert case.model.weight.grad is not None


x, y = torch.zeros(4, 3), torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("inputs", "targets", "loss_fn", "message"),
    [
        (x[:0], y[:0], F.mse_loss, "no samples"),
        (x, y[:3], F.mse_loss, r"same number of samples.*\(4, 3\), \(3, 2\)"),
        (x, torch.tensor(1.0), F.mse_loss, "same number of samples"),
        ((1, 2), None, F.mse_loss, "same number of samples"),
        (x, y, lambda o, t: F.mse_loss(o, t, reduction="none"), r"scalar.*shape \(1, 2\)"),
        (x, y, lambda o, t: 0.0, "scalar.*float"),
    ],
)
def test_bad_batches_and_losses_leave_the_gradients(
    inputs: Any, targets: Any, loss_fn: Any, message: str
) -> None:
    model = nn.Linear(3, 2)
    model.weight.grad = torch.ones(2, 3)
    with pytest.raises(ValueError, match=message):
        PerSampleGradients(model, loss_fn).backward(inputs, targets)
    assert torch.equal(model.weight.grad, torch.ones(2, 3))
    assert model.bias.grad is None


def test_an_error_in_a_late_chunk_leaves_the_gradients() -> None:
    case = sample_models.make("linear")
    calls = []

    def fails_in_the_third_chunk(output: Tensor, target: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise ArithmeticError("third")
        return F.mse_loss(output, target)

    source = PerSampleGradients(case.model, fails_in_the_third_chunk)
    source.chunk_size = 2
    with pytest.raises(ArithmeticError, match="third"):
        source.backward(case.inputs, case.targets)
    assert all(p.grad is None for p in case.model.parameters())


def test_bad_settings() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        PerSampleGradients(model, F.mse_loss, max_bytes=0)
    source = PerSampleGradients(model, F.mse_loss)
    source.chunk_size = 0
    with pytest.raises(ValueError, match="chunk_size must be at least 1 or None, got 0"):
        source.backward(x, y)
    with pytest.raises(ValueError, match="no parameter that requires grad"):
        backward_with_statistics(model.requires_grad_(False), F.mse_loss, x, y)
