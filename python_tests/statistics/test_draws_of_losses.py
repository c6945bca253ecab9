"""Random numbers in statistics(losses=...): the same in every pass of it, and none stay drawn."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from adadagrad_kernels import layer_statistics
from adadagrad_kernels.statistics.randomness import RandomState


def network():
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1)).double()


def products_by_autograd(model, inputs, targets, direction):
    """Along a direction, as the next draws have it."""
    each = (model(inputs) - targets).square().mean(1)
    found = []
    for value in each:
        grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        pairs = zip(grads, direction, strict=True)
        found.append(sum(float((grad * along).sum()) for grad, along in pairs))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(("exact", "far"), [(True, 1e-12), (False, 1e-3)])
@pytest.mark.parametrize("repeats", [False, True])
def test_inner_products_are_those_of_one_set_of_draws(exact, far, repeats):
    model = network()
    inputs, targets = torch.randn(12, 4).double(), torch.randn(12, 1).double()
    with layer_statistics(model, shadow=True) as recorder:
        before = RandomState(torch.device("cpu"))
        mse_loss(model(inputs), targets).backward()
        after = RandomState(torch.device("cpu"))

        def losses():
            if repeats:
                before.restore()
            return (model(inputs) - targets).square().mean(1)

        record = recorder.statistics(losses=losses, exact=exact)
    assert not before.same_as(after)
    assert not after.has_changed(), "as in a step that is not measured"
    (before if repeats else after).restore()
    mean = [p.grad for p in model.parameters()]
    expected = products_by_autograd(model, inputs, targets, mean)
    torch.testing.assert_close(record.inner_products, expected, rtol=far, atol=far)
    if repeats:  # those of the samples' own gradients
        assert record.inner_products.mean().item() == pytest.approx(record.mean_sq_norm, rel=far)


def test_products_with_the_covariance_have_the_same_draws():
    model = network()
    inputs, targets = torch.randn(12, 4).double(), torch.randn(12, 1).double()

    def losses():
        return (model(inputs) - targets).square().mean(1)

    with layer_statistics(model, shadow=True) as recorder:
        mse_loss(model(inputs), targets).backward()
        after = RandomState(torch.device("cpu"))
        record = recorder.statistics(losses=losses, covariance_products=True)
    p = record.inner_products
    each = losses()
    rows = []
    for value in each:
        grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    rows = torch.stack(rows)
    expected = rows @ (((p - p.mean()) / 11) @ rows)
    torch.testing.assert_close(record.covariance_products, expected, rtol=1e-9, atol=1e-14)
    after.restore()
