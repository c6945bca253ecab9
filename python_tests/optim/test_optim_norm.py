"""AdagradNorm's steps against the paper's formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from paper_norm import PaperNorm, accumulator_of, compare, gradients_of, params_of
from torch.nn import Parameter
from trajectories import parameters, set_gradients

from adadagrad_kernels import use_backend
from adadagrad_kernels.optim import AdagradNorm


def _run(groups: list[dict[str, Any]], steps: int = 5, **kwargs: Any) -> AdagradNorm:
    defaults = {"lr", "weight_decay", "eps", "row_wise", "maximize"} & kwargs.keys()
    paper = PaperNorm(
        [{**{name: kwargs[name] for name in defaults}, **group} for group in groups],
        kwargs.get("initial_accumulator_value", 1e-2),
    )
    optimizer = AdagradNorm(groups, **kwargs)
    for step in range(1, steps + 1):
        set_gradients(params_of(optimizer))
        optimizer.step()
        paper.step(gradients_of(optimizer))
        compare(optimizer, paper)
        assert all(state["step"].item() == step for state in optimizer.state.values())
    return optimizer


@pytest.mark.parametrize("name", ["auto", "reference"])
@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"lr": 0.5, "weight_decay": 0.2, "maximize": True},
        {"initial_accumulator_value": 4.0, "eps": 0.5},
        {"initial_accumulator_value": 0.0},
    ],
    ids=["default", "decay-maximize", "initial-eps", "from-zero"],
)
def test_follows_the_paper(
    kwargs: dict[str, Any], row_wise: bool, dtype: torch.dtype, name: str
) -> None:
    with use_backend(name):
        _run([{"params": parameters(dtype=dtype)}], row_wise=row_wise, **kwargs)


def test_groups_share_one_accumulator_and_keep_their_own_settings() -> None:
    groups = [
        {"params": parameters([(3,)]), "lr": 0.3},
        {"params": parameters([(4, 5), ()]), "weight_decay": 0.3, "eps": 0.1},
        {"params": parameters([(2, 2)]), "maximize": True},
        {"params": parameters([(3, 2)]), "row_wise": True, "lr": 0.2},
        {"params": parameters([(3,)], torch.float64)},
    ]
    optimizer = _run(groups, lr=0.5)
    # Equal to the last bit: every group divides by the root of the same v.
    v = accumulator_of(optimizer)
    assert sum(optimizer.state[p]["sum"].item() for p in groups[0]["params"]) < v


def test_from_zero_with_zero_gradients_in_a_second_group() -> None:
    """Measuring the smaller group must not divide zero by zero."""
    first, second = Parameter(torch.ones(3)), Parameter(torch.ones(2))
    optimizer = AdagradNorm(
        [{"params": [first]}, {"params": [second]}], initial_accumulator_value=0.0, eps=0.0
    )
    first.grad, second.grad = torch.tensor([0.0, 3.0, 4.0]), torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(first.detach(), torch.tensor([1.0, 1 - 0.6, 1 - 0.8]))
    assert torch.equal(second, torch.ones(2))


def test_parameters_without_gradient_and_shares() -> None:
    params = parameters([(3,), (2, 2), ()])
    optimizer = AdagradNorm(params)
    paper = PaperNorm([{"params": params}], 1e-2)
    for active in ({0, 1, 2}, {1}, set(), {0, 2}, {0, 1, 2}):
        set_gradients(params)
        for i, param in enumerate(params):
            if i not in active:
                param.grad = None
        shares = [optimizer.state[param]["sum"].item() for param in params]
        optimizer.step()
        paper.step(gradients_of(optimizer))
        compare(optimizer, paper)
        for i, param in enumerate(params):
            assert (optimizer.state[param]["sum"].item() > shares[i]) == (i in active)
    assert [state["step"].item() for state in optimizer.state.values()] == [3, 3, 3]


@pytest.mark.parametrize("row_wise", [False, True])
def test_sparse_gradients_count_their_rows_only(row_wise: bool) -> None:
    dense, sparse = Parameter(torch.randn(3)), Parameter(torch.randn(6, 2))
    optimizer = AdagradNorm([dense, sparse], row_wise=row_wise)
    paper = PaperNorm([{"params": [dense, sparse], "row_wise": row_wise}], 1e-2)
    with torch.sparse.check_sparse_tensor_invariants(True):
        for rows in ([1, 4, 1], [0, 0, 5]):
            dense.grad = torch.randn(3)
            sparse.grad = torch.sparse_coo_tensor([rows], torch.randn(3, 2), (6, 2))
            untouched = [r for r in range(6) if r not in rows]
            before = sparse.detach()[untouched].clone()
            optimizer.step()
            assert torch.equal(sparse.detach()[untouched], before)
            paper.step([[dense.grad, sparse.grad.to_dense()]])
            compare(optimizer, paper)


def test_rows_of_a_gradient_sparse_in_every_dimension_are_refused() -> None:
    weight = Parameter(torch.ones(3, 2))
    optimizer = AdagradNorm([weight], row_wise=True)
    with torch.sparse.check_sparse_tensor_invariants(True):
        weight.grad = torch.sparse_coo_tensor([[0], [1]], [1.0], (3, 2))
        with pytest.raises(ValueError, match="no whole rows"):
            optimizer.step()
    assert torch.equal(weight, torch.ones(3, 2))


@pytest.mark.parametrize("row_wise", [False, True])
def test_complex_parameters_count_both_parts(row_wise: bool) -> None:
    for shape in ((), (3,), (2, 4)):
        weight = Parameter(torch.randn(shape, dtype=torch.complex64))
        real = Parameter(torch.view_as_real(weight.detach().reshape(shape or (1,))).clone())
        optimizers = [AdagradNorm([p], row_wise=row_wise) for p in (weight, real)]
        for _ in range(3):
            weight.grad = torch.randn(shape, dtype=torch.complex64)
            real.grad = torch.view_as_real(weight.grad.reshape(shape or (1,)))
            for optimizer in optimizers:
                optimizer.step()
        parts = torch.view_as_real(weight.detach().reshape(shape or (1,)))
        torch.testing.assert_close(parts, real.detach())
        assert torch.equal(optimizers[0].state[weight]["sum"], optimizers[1].state[real]["sum"])


@pytest.mark.parametrize("row_wise", [False, True])
def test_channels_last_weights_have_rows_too(row_wise: bool) -> None:
    weight = torch.randn(4, 3, 2, 5)
    plain = Parameter(weight.clone())
    last = Parameter(weight.to(memory_format=torch.channels_last))
    optimizers = [AdagradNorm([param], row_wise=row_wise) for param in (plain, last)]
    for layout in (torch.contiguous_format, torch.channels_last):
        set_gradients([plain], [last])
        last.grad = last.grad.to(memory_format=layout)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(last.detach(), plain.detach())
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_rows_that_do_not_lie_together_are_refused_before_anything_moves() -> None:
    first, turned = Parameter(torch.ones(3)), Parameter(torch.ones(2, 3).t())
    optimizer = AdagradNorm([{"params": [first]}, {"params": [turned]}], row_wise=True)
    first.grad, turned.grad = torch.ones(3), torch.ones(3, 2)
    with pytest.raises(ValueError, match="rows lie one after another"):
        optimizer.step()
    assert torch.equal(first, torch.ones(3))


@pytest.mark.parametrize("row_wise", [False, True])
def test_an_element_type_without_kernels_is_refused_before_anything_moves(row_wise: bool) -> None:
    first, odd = Parameter(torch.ones(3)), Parameter(torch.ones(2).to(torch.float8_e5m2))
    optimizer = AdagradNorm([{"params": [first]}, {"params": [odd]}], row_wise=row_wise)
    first.grad, odd.grad = torch.ones(3), torch.ones(2).to(torch.float8_e5m2)
    with pytest.raises(ValueError, match="float8_e5m2; accepted are"):
        optimizer.step()
    assert torch.equal(first, torch.ones(3))


def test_grad_sq_norm_is_of_all_groups() -> None:
    groups = [
        {"params": parameters([(3,), (2,)]), "weight_decay": 0.5},
        {"params": parameters([(4,)], torch.float64)},
        {"params": parameters([(2, 3)]), "row_wise": True},
    ]
    optimizer = AdagradNorm(groups)
    assert optimizer.grad_sq_norm is None
    set_gradients(params_of(optimizer))
    optimizer.step()
    expected = sum(param.grad.double().square().sum() for param in params_of(optimizer))
    torch.testing.assert_close(optimizer.grad_sq_norm, expected, rtol=1e-6, atol=0)


def test_nan_gradients_propagate() -> None:
    params = parameters([(3,), (2,)])
    optimizer = AdagradNorm(params)
    set_gradients(params)
    params[0].grad[1] = float("nan")
    optimizer.step()
    assert all(param.isnan().all() for param in params)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"lr": -1.0}, ValueError),
        ({"lr": torch.ones(2)}, ValueError),
        ({"weight_decay": -1.0}, ValueError),
        ({"initial_accumulator_value": -1.0}, ValueError),
        ({"eps": -1.0}, ValueError),
        ({"fused": True, "foreach": True}, RuntimeError),
    ],
)
def test_bad_settings(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        AdagradNorm([Parameter(torch.zeros(1))], **kwargs)
