"""AdagradNorm against a float64 loop of the paper's formulas, written apart from the package."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from trajectories import SHAPES, assert_same, copies, parameters, set_gradients

from adadagrad_kernels import use_backend
from adadagrad_kernels.optim import Adagrad, AdagradNorm


class PaperNorm:
    """Ward, Wu, Bottou 2019, one number v over all groups, or one for each row, in float64."""

    def __init__(self, groups: list[dict[str, Any]], initial: float) -> None:
        self.groups = [
            {
                "lr": 1.0,
                "weight_decay": 0.0,
                "eps": 1e-10,
                "row_wise": False,
                "maximize": False,
                **group,
                "params": [p.detach().double().clone() for p in group["params"]],
            }
            for group in groups
        ]
        self.v = initial
        self.rows = [
            [
                torch.full((p.shape[0] if p.dim() else 1,), initial, dtype=torch.float64)
                for p in g["params"]
            ]
            for g in self.groups
        ]

    def step(self, grads: list[list[Tensor | None]]) -> None:
        directions = [
            [
                None
                if grad is None
                else (-1 if group["maximize"] else 1) * grad.double()
                + group["weight_decay"] * param
                for param, grad in zip(group["params"], given, strict=True)
            ]
            for group, given in zip(self.groups, grads, strict=True)
        ]
        for group, row in zip(self.groups, directions, strict=True):
            if not group["row_wise"]:
                self.v += sum(float((d**2).sum()) for d in row if d is not None)
        for group, row, sums in zip(self.groups, directions, self.rows, strict=True):
            for param, d, total in zip(group["params"], row, sums, strict=True):
                if d is None:
                    continue
                if not group["row_wise"]:
                    param -= group["lr"] * d / (self.v**0.5 + group["eps"])
                    continue
                for r in range(len(total)):
                    piece = d[r] if d.dim() else d
                    total[r] += (piece**2).sum()
                    target = param[r] if param.dim() else param
                    target -= group["lr"] * piece / (total[r] ** 0.5 + group["eps"])


def _grads(optimizer: Any) -> list[list[Tensor | None]]:
    return [[p.grad for p in group["params"]] for group in optimizer.param_groups]


def _params(optimizer: Any) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _v(optimizer: AdagradNorm) -> float:
    """The accumulator, by its definition: the sum of the shares."""
    return float(
        sum(
            optimizer.state[param]["sum"]
            for group in optimizer.param_groups
            if not group["row_wise"]
            for param in group["params"]
        )
    )


def _compare(optimizer: AdagradNorm, paper: PaperNorm) -> None:
    """Within the rounding of the parameter's dtype, of values and updates of order one."""
    epsilon = max(torch.finfo(param.dtype).eps for param in _params(optimizer))
    expected = [param for group in paper.groups for param in group["params"]]
    actual = [param.detach().double() for param in _params(optimizer)]
    assert_same(actual, expected, rtol=4 * epsilon, atol=8 * epsilon)
    if not all(group["row_wise"] for group in optimizer.param_groups):
        assert _v(optimizer) == pytest.approx(paper.v, rel=4 * epsilon)
    for group, sums in zip(optimizer.param_groups, paper.rows, strict=True):
        if group["row_wise"]:
            states = [optimizer.state[param]["sum"] for param in group["params"]]
            assert_same(states, sums, rtol=4 * epsilon, atol=0, what="rows")


def _run(groups: list[dict[str, Any]], steps: int = 5, **kwargs: Any) -> AdagradNorm:
    defaults = {"lr", "weight_decay", "eps", "row_wise", "maximize"} & kwargs.keys()
    paper = PaperNorm(
        [{**{name: kwargs[name] for name in defaults}, **group} for group in groups],
        kwargs.get("initial_accumulator_value", 1e-2),
    )
    optimizer = AdagradNorm(groups, **kwargs)
    for step in range(1, steps + 1):
        set_gradients(_params(optimizer))
        optimizer.step()
        paper.step(_grads(optimizer))
        _compare(optimizer, paper)
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
    v = _v(optimizer)
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
        paper.step(_grads(optimizer))
        _compare(optimizer, paper)
        for i, param in enumerate(params):
            assert (optimizer.state[param]["sum"].item() > shares[i]) == (i in active)
    assert [state["step"].item() for state in optimizer.state.values()] == [3, 3, 3]


def test_state_is_float64_per_parameter_and_adds_up() -> None:
    scalar = AdagradNorm(parameters(dtype=torch.float16), initial_accumulator_value=3.0)
    assert _v(scalar) == pytest.approx(3.0, rel=1e-15)
    rows = AdagradNorm(parameters(dtype=torch.float16), row_wise=True)
    for shape, one, many in zip(SHAPES, scalar.state.values(), rows.state.values(), strict=True):
        assert one["sum"].shape == ()
        assert many["sum"].shape == (shape[0] if shape else 1,)
        assert one["sum"].dtype == many["sum"].dtype == torch.float64
        assert one["step"].dtype == many["step"].dtype == torch.float32
        assert (many["sum"] == 1e-2).all()


def test_a_parameter_that_joins_later_finds_the_accumulator_grown() -> None:
    first, second = parameters([(3,), (4,)])
    optimizer = AdagradNorm([first])
    set_gradients([first])
    optimizer.step()
    v = _v(optimizer)
    optimizer.add_param_group({"params": [second], "lr": 0.5})
    before = second.detach().clone()
    second.grad = torch.tensor([1.0, 0.0, -2.0, 2.0])
    first.grad = None
    optimizer.step()
    assert _v(optimizer) == pytest.approx(v + 9, rel=1e-12)
    torch.testing.assert_close(
        before - second.detach(), 0.5 * second.grad / (v + 9) ** 0.5, rtol=1e-6, atol=1e-7
    )


def test_a_share_leaves_with_its_parameter_and_the_rest_remains() -> None:
    params = parameters([(3,), (5,)])
    optimizer = AdagradNorm(params)
    for _ in range(3):
        set_gradients(params)
        optimizer.step()
    v, share = _v(optimizer), optimizer.state[params[1]]["sum"].item()
    other = AdagradNorm(copies(params[:1]))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["params"].pop()
    del saved["state"][1]
    other.load_state_dict(saved)
    assert _v(other) == pytest.approx(v - share, rel=1e-12)


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("source", [Adagrad, torch.optim.Adagrad])
def test_loads_an_adagrad_state(source: Any, row_wise: bool, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    reference = source(params, lr=0.25, initial_accumulator_value=0.5)
    for _ in range(3):
        set_gradients(params)
        reference.step()
    ours = AdagradNorm(copies(params), row_wise=row_wise)
    ours.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert ours.param_groups[0]["lr"] == 0.25
    assert "lr_decay" not in ours.param_groups[0]
    for state, theirs in zip(ours.state.values(), reference.state.values(), strict=True):
        exact = theirs["sum"].double()
        rows = len(exact) if exact.dim() else 1
        expected = [exact[r].sum() if exact.dim() else exact for r in range(rows)]
        if row_wise:
            assert state["sum"].tolist() == pytest.approx([float(e) for e in expected], rel=1e-12)
        else:
            assert state["sum"].item() == pytest.approx(float(sum(expected)), rel=1e-12)
        assert state["step"].item() == 3
    set_gradients(_params(ours))
    v = _v(ours) if not row_wise else None
    ours.step()
    if v is not None:
        assert _v(ours) == pytest.approx(v + ours.grad_sq_norm.item(), rel=1e-6)


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("target", [Adagrad, torch.optim.Adagrad])
def test_exports_to_adagrad_and_comes_back(target: Any, row_wise: bool, dtype: torch.dtype) -> None:
    params = [*parameters(dtype=dtype), Parameter(torch.randn(2, 2, dtype=torch.complex64))]
    ours = AdagradNorm(params, row_wise=row_wise, lr=0.5)
    for _ in range(3):
        set_gradients(params)
        ours.step()
    theirs = target(copies(params))
    theirs.load_state_dict(copy.deepcopy(ours.adagrad_state_dict()))
    for param, state in zip(params, theirs.state.values(), strict=True):
        assert state["sum"].shape == param.shape
        assert state["sum"].dtype == param.dtype
        assert state["step"].item() == 3
    back = AdagradNorm(copies(params), row_wise=row_wise)
    back.load_state_dict(copy.deepcopy(theirs.state_dict()))
    epsilon = torch.finfo(dtype).eps
    sums = [[state["sum"] for state in o.state.values()] for o in (back, ours)]
    assert_same(*sums, rtol=max(epsilon, 1e-6), atol=0, what="sum")
    assert all(state["sum"].shape in ((), (2,)) or row_wise for state in ours.state.values())
    set_gradients(_params(theirs))
    theirs.step()


def test_lr_decay_of_an_adagrad_state_is_refused() -> None:
    params = parameters([(3,)])
    ours = AdagradNorm(params)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match="learning-rate scheduler"):
        ours.load_state_dict(torch.optim.Adagrad(copies(params), lr_decay=0.1).state_dict())
    assert ours.state_dict()["param_groups"] == before["param_groups"]


def test_a_state_of_another_shape_is_refused() -> None:
    ours = AdagradNorm(parameters([(3, 2)]))
    before = ours.state_dict()["state"][0]["sum"].clone()
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        ours.load_state_dict(torch.optim.Adagrad(parameters([(5,)])).state_dict())
    assert torch.equal(ours.state_dict()["state"][0]["sum"], before)


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
            _compare(optimizer, paper)


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


def test_grad_sq_norm_is_of_all_groups() -> None:
    groups = [
        {"params": parameters([(3,), (2,)]), "weight_decay": 0.5},
        {"params": parameters([(4,)], torch.float64)},
        {"params": parameters([(2, 3)]), "row_wise": True},
    ]
    optimizer = AdagradNorm(groups)
    assert optimizer.grad_sq_norm is None
    set_gradients(_params(optimizer))
    optimizer.step()
    expected = sum(param.grad.double().square().sum() for param in _params(optimizer))
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
