"""Records of some of a model's layers: exact for these, and without a word of the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from adadagrad_kernels import UnsupportedModelError, is_normalization, layer_statistics


class OwnNorm(nn.Module):
    """Another library's RMSNorm."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, inputs):
        return self.weight * inputs * (inputs.square().mean(-1, keepdim=True) + self.eps).rsqrt()


class Odd(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, inputs):
        return torch.sin(inputs) + self.shift


def network():
    torch.manual_seed(0)
    layers = nn.Linear(3, 6), nn.LayerNorm(6), Odd(6), nn.Linear(6, 6), OwnNorm(6), nn.Linear(6, 1)
    return nn.Sequential(*layers).double()


def data():
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(9, width, generator=generator, dtype=torch.float64) for width in (3, 1))


def rows_of(model, names, inputs, targets):
    parameters = dict(model.named_parameters())
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        loss = mse_loss(model(x[None]), y[None])
        grads = torch.autograd.grad(loss, [parameters[name] for name in names])
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(rows)


@pytest.mark.parametrize("cuts", [[9], [4, 5]])
def test_the_record_is_that_of_the_selected_layers(cuts):
    model = network()
    inputs, targets = data()
    names = ["1.weight", "1.bias", "4.weight"]
    rows = rows_of(model, names, inputs, targets)
    whole = cuts == [9]
    with layer_statistics(
        model, only=is_normalization, inner_products=whole, variance=True, on_other="raise"
    ) as recorder:
        for _ in range(2):
            model.zero_grad()
            for x, y in zip(inputs.split(cuts), targets.split(cuts), strict=True):
                (mse_loss(model(x), y) * len(x) / 9).backward()
            record = recorder.statistics()
    assert list(record.mean_gradient) == list(record.variance) == names, "no others, not even zeros"
    mean = rows.mean(0)
    assert record.mean_sq_norm == pytest.approx(mean.square().sum().item())
    torch.testing.assert_close(record.sq_norms, rows.square().sum(1), rtol=1e-10, atol=0.0)
    variance = torch.cat([record.variance[name].flatten() for name in names])
    torch.testing.assert_close(variance, rows.var(0), rtol=1e-10, atol=0.0)
    if whole:
        torch.testing.assert_close(record.inner_products, rows @ mean, rtol=1e-10, atol=1e-14)
    plain = network()
    mse_loss(plain(inputs), targets).backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)
    for place in (0, 2, 3, 5):  # measured by nobody, so to the last bit
        for ours, theirs in zip(model[place].parameters(), plain[place].parameters(), strict=True):
            assert not whole or torch.equal(ours.grad, theirs.grad)


def test_gradients_that_are_not_measured_may_be_whatever_they_are():
    """A penalty on a layer that is not selected, and its gradient from an earlier step."""
    model = network()
    inputs, targets = data()
    with layer_statistics(model, only=is_normalization) as recorder:
        for _ in range(2):
            model[1].zero_grad()
            model[4].zero_grad()
            (mse_loss(model(inputs), targets) + model[0].weight.square().sum()).backward()
            record = recorder.statistics()
    rows = rows_of(model, ["1.weight", "1.bias", "4.weight"], inputs, targets)
    assert record.sum_sq_norms == pytest.approx(rows.square().sum().item())


def test_any_predicate_selects():
    model = network()
    inputs, targets = data()
    with layer_statistics(model, only=lambda module: module is model[5]) as recorder:
        mse_loss(model(inputs), targets).backward()
        record = recorder.statistics()
    rows = rows_of(model, ["5.weight", "5.bias"], inputs, targets)
    assert record.sum_sq_norms == pytest.approx(rows.square().sum().item())
    assert set(record.mean_gradient) == {"5.weight", "5.bias"}


def test_what_counts_as_a_normalization():
    norms = (nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4), OwnNorm(4))
    others = (nn.Linear(4, 4), nn.BatchNorm1d(4), Odd(4), nn.Embedding(4, 4))
    assert [is_normalization(module) for module in (*norms, *others)] == [True] * 4 + [False] * 4


def test_what_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"only must be a function that takes a module.*got 'norm"):
        layer_statistics(model, only="normalization")
    with pytest.raises(ValueError, match=r"selects no layer with parameters in training.*Linear"):
        layer_statistics(nn.Linear(3, 3), only=is_normalization)
    with pytest.raises(ValueError, match="pass one"):
        layer_statistics(model, only=is_normalization, groups={"all": model.parameters()})
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match=r"selects layer '0' \(Linear\) and not layer '1'"):
        layer_statistics(tied, only=lambda module: module is tied[0])
    frozen = network().requires_grad_(False)
    frozen[0].requires_grad_(True)
    with pytest.raises(ValueError, match="selects no layer"):
        layer_statistics(frozen, only=is_normalization)
    mixes = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))
    with (
        layer_statistics(mixes, only=is_normalization),
        pytest.raises(UnsupportedModelError, match="BatchNorm"),
    ):
        mixes(torch.randn(4, 3))


def test_a_part_of_what_is_measured_as_a_whole_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))
    with pytest.raises(ValueError, match=r"selects 'out_proj' of layer '1.self_attn'.* a whole"):
        layer_statistics(model, only=lambda module: isinstance(module, nn.Linear))
    with layer_statistics(model, only=lambda m: isinstance(m, nn.Linear | nn.MultiheadAttention)):
        pass
