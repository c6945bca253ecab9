"""`SparseSvrg`: the definition term by term, no bias, no variance at the snapshot, convergence."""

from __future__ import annotations

import pytest
import torch
from support.sparse_calls import compressed
from torch import Tensor

from adadagrad_kernels.ops import CsrRows
from adadagrad_kernels.optim import SparseSvrg
from adadagrad_kernels.statistics import linear_gradients

SAMPLES, FEATURES = 60, 11


def problem(rare: float = 0.15) -> tuple[Tensor, Tensor, Tensor]:
    """Sparse samples, their targets, and the share of samples that have each feature."""
    share = torch.linspace(1, rare, FEATURES)
    data = torch.randn(SAMPLES, FEATURES).double()
    data *= torch.rand(SAMPLES, FEATURES) < share
    data[0] = 1  # none is missing altogether
    return data, torch.randn(SAMPLES).double(), (data != 0).double().mean(0)


def gradients(weight: Tensor, data: Tensor, targets: Tensor) -> CsrRows:
    rows = CsrRows(*compressed(data))
    return linear_gradients(weight, rows, targets, "squares").gradients


def mean_gradient(weight: Tensor, data: Tensor, targets: Tensor) -> Tensor:
    return data.T @ (data @ weight - targets) / len(data)


def anchored(weight: Tensor, data: Tensor, targets: Tensor, share: Tensor) -> SparseSvrg:
    return SparseSvrg(weight, mean_gradient(weight, data, targets), share)


def test_matches_the_definition() -> None:
    data, targets, share = problem()
    snapshot, weight = torch.randn(2, FEATURES).double()
    svrg = anchored(snapshot, data, targets, share)
    mu = mean_gradient(snapshot, data, targets)
    batch, of_batch = data[:9], targets[:9]
    for ridge in (0.0, 0.3):
        expected = weight.clone()
        for j in range(FEATURES):
            users = [i for i in range(9) if batch[i, j] != 0]
            if users:
                terms = [
                    batch[i, j] * ((batch[i] @ weight - of_batch[i])
                                   - (batch[i] @ snapshot - of_batch[i]))
                    + mu[j] / share[j] + ridge / share[j] * weight[j]
                    for i in users
                ]  # fmt: skip
                expected[j] -= 0.1 * sum(terms) / len(users)
        ours = weight.clone()
        now, then = (gradients(at, batch, of_batch) for at in (weight, snapshot))
        svrg.step_(ours, now, then, lr=0.1, ridge=ridge)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_the_ridge_on_touched_coordinates_is_the_correction_of_the_whole_objective() -> None:
    """With the ridge in the terms and in mu, it cancels at the snapshot and remains at w."""
    data, targets, share = problem()
    snapshot, weight = torch.randn(2, FEATURES).double()
    now, then = (gradients(at, data[:7], targets[:7]) for at in (weight, snapshot))
    ours, other = weight.clone(), weight.clone()
    anchored(snapshot, data, targets, share).step_(ours, now, then, lr=0.1, ridge=0.2)
    whole = mean_gradient(snapshot, data, targets) + 0.2 * snapshot
    columns = now.col_indices
    decay = 0.2 / share[columns] * (weight - snapshot)[columns]
    corrected = now._replace(values=now.values + decay)
    SparseSvrg(snapshot, whole, share).step_(other, corrected, then, lr=0.1)
    torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


def test_at_the_snapshot_nothing_is_left_to_chance() -> None:
    data, targets, share = problem()
    weight = torch.randn(FEATURES).double()
    svrg = anchored(weight, data, targets, share)
    for batch in (slice(0, 1), slice(3, 20), slice(0, 60)):
        now = gradients(weight, data[batch], targets[batch])
        ours = weight.clone()
        svrg.step_(ours, now, now, lr=1.0)
        touched = (data[batch] != 0).any(0)
        wanted = torch.where(touched, weight - svrg.offset, weight)
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


def test_single_samples_have_the_mean_gradient_as_their_mean() -> None:
    data, targets, share = problem()
    snapshot, weight = torch.randn(2, FEATURES).double()
    svrg = anchored(snapshot, data, targets, share)
    steps = torch.zeros(SAMPLES, FEATURES).double()
    for i in range(SAMPLES):
        now, then = (gradients(at, data[i : i + 1], targets[i : i + 1])
                     for at in (weight, snapshot))  # fmt: skip
        after = weight.clone()
        svrg.step_(after, now, then, lr=1.0)
        steps[i] = weight - after
    wanted = mean_gradient(weight, data, targets)
    torch.testing.assert_close(steps.mean(0), wanted, rtol=1e-10, atol=1e-12)


def test_converges_where_the_plain_step_rattles() -> None:
    data, targets, share = problem(rare=0.4)
    solution = torch.linalg.lstsq(data, targets[:, None]).solution[:, 0]
    distances = {}
    for corrected in (True, False):
        weight = torch.zeros(FEATURES).double()
        generator = torch.Generator().manual_seed(1)
        for _ in range(60):
            svrg = anchored(weight, data, targets, share)
            zeros = SparseSvrg(weight, torch.zeros_like(weight), share)
            for batch in torch.randperm(SAMPLES, generator=generator).split(6):
                now = gradients(weight, data[batch], targets[batch])
                then = gradients(svrg.param, data[batch], targets[batch])
                if corrected:
                    svrg.step_(weight, now, then, lr=0.05)
                else:
                    zeros.step_(weight, now, now._replace(values=0 * now.values), lr=0.05)
        distances[corrected] = float((weight - solution).norm())
    assert distances[True] < 1e-3 * distances[False]


def test_refusals() -> None:
    data, targets, share = problem()
    weight = torch.zeros(FEATURES).double()
    mu = mean_gradient(weight, data, targets)
    with pytest.raises(ValueError, match=r"\(10,\).*accepted are \(11,\)"):
        SparseSvrg(weight, mu, share[1:])
    with pytest.raises(ValueError, match="has 0 for a coordinate whose mean gradient"):
        SparseSvrg(weight, mu, torch.zeros_like(share))
    svrg = SparseSvrg(weight, mu, share)
    now, then = (gradients(weight, data[i : i + 2], targets[i : i + 2]) for i in (0, 5))
    with pytest.raises(ValueError, match=r"2 samples and .* accepted are gradients of the same"):
        svrg.step_(weight, now, then, lr=0.1)
    assert not weight.any()
    nowhere = torch.zeros(3).double()
    never = SparseSvrg(nowhere, torch.tensor([1.0, 0, 0]).double(), torch.eye(3)[0].double())
    assert never.offset.tolist() == [1, 0, 0]
