"""Kinds of tensors: sparse, complex, of other layouts, shared, sharded, without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from trajectories import assert_same, assert_same_state, copies, follow, parameters, set_gradients

from adadagrad_kernels.optim import Adagrad, AdagradNorm, DelayedAdagradNorm
from adadagrad_kernels.optim import adagrad as adagrad_module
from adadagrad_kernels.optim._buckets import Call


@pytest.fixture(autouse=True)
def _checked_sparse_tensors() -> Iterator[None]:
    """Torch wants a decision for or against these checks, and warns without one."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


def _pair(params: list[Parameter], **kwargs: Any) -> tuple[Adagrad, torch.optim.Adagrad]:
    return Adagrad(params, **kwargs), torch.optim.Adagrad(copies(params), **kwargs, foreach=False)


@pytest.mark.parametrize("lr_decay", [0.0, 0.5])
def test_parameters_without_gradient_stand_still(lr_decay: float) -> None:
    chosen: list[set[int]] = [{0, 1, 2}, {1}, set(), {0, 2}, {0, 1, 2}, {2}]

    def some(*models: list[Parameter]) -> None:
        set_gradients(*models)
        active = chosen.pop(0)
        for model in models:
            for i, param in enumerate(model):
                if i not in active:
                    param.grad = None

    ours, theirs = _pair(parameters([(3,), (2, 2), ()]), lr=0.1, lr_decay=lr_decay)
    follow(ours, theirs, steps=6, gradients=some)
    assert [state["step"].item() for state in ours.state.values()] == [3, 3, 4]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("lr_decay", [0.0, 0.5])
def test_sparse_gradients_move_the_rows_they_name(maximize: bool, lr_decay: float) -> None:
    weights = [Parameter(torch.randn(6, 3)), Parameter(torch.randn(4))]

    def sparse(*models: list[Parameter]) -> None:
        set_gradients(*models)
        rows = torch.randint(0, 6, (5,))  # with repetitions
        values = torch.randn(5, 3) + 2
        for model in models:
            model[0].grad = torch.sparse_coo_tensor(rows[None], values, (6, 3))

    ours, theirs = _pair(weights, lr=0.1, maximize=maximize, lr_decay=lr_decay)
    follow(ours, theirs, steps=5, gradients=sparse)


def test_sparse_in_every_dimension_and_empty() -> None:
    weight = Parameter(torch.randn(4, 3))
    gradients = [
        torch.sparse_coo_tensor([[0, 3], [2, 1]], [1.5, -2.0], (4, 3)),
        torch.sparse_coo_tensor(torch.empty(2, 0, dtype=torch.long), torch.empty(0), (4, 3)),
    ]

    def sparse(*models: list[Parameter]) -> None:
        grad = gradients.pop(0)
        for model in models:
            model[0].grad = grad.clone()

    ours, theirs = _pair([weight], lr=0.1)
    follow(ours, theirs, steps=2, gradients=sparse)
    assert ours.grad_sq_norm is not None
    assert ours.grad_sq_norm.item() == 0


def test_embedding_after_dense_steps_turns_sparse() -> None:
    """The op refuses the sparse gradient, which the optimizer has not seen coming."""
    kinds = [False, True, False, True]

    def mixed(*models: list[Parameter]) -> None:
        set_gradients(*models)
        if kinds.pop(0):
            for model in models:
                model[0].grad = model[0].grad.to_sparse()

    ours, theirs = _pair(parameters([(5, 2), (3,)]), lr=0.1)
    follow(ours, theirs, steps=4, gradients=mixed)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"weight_decay": 0.1}, "weight_decay option is not compatible with sparse gradients"),
        ({"fused": True}, "`fused` does not support sparse grad or complex param"),
    ],
)
def test_sparse_refusals_are_torchs_and_write_nothing(kwargs: dict[str, Any], match: str) -> None:
    dense, sparse = Parameter(torch.ones(3)), Parameter(torch.ones(4, 2))
    for optimizer in (Adagrad([dense, sparse], **kwargs), torch.optim.Adagrad([sparse], **kwargs)):
        dense.grad = torch.ones(3)
        sparse.grad = torch.sparse_coo_tensor([[1]], [[1.0, 2.0]], (4, 2))
        with pytest.raises(RuntimeError, match=match):
            optimizer.step()
    assert torch.equal(dense, torch.ones(3))
    assert torch.equal(sparse, torch.ones(4, 2))


def test_a_refusal_leaves_parameters_state_and_counters() -> None:
    good, bad = Parameter(torch.ones(3)), Parameter(torch.ones(4, 4)[:, ::2])
    optimizer = Adagrad([{"params": [good]}, {"params": [bad], "lr": 0.5}])
    good.grad, bad.grad = torch.ones(3), torch.ones(4, 2)
    with pytest.raises(ValueError, match="dense layout"):
        optimizer.step()
    assert torch.equal(good, torch.ones(3))
    assert all(state["step"].item() == 0 for state in optimizer.state.values())
    assert all(state["sum"].count_nonzero() == 0 for state in optimizer.state.values())


@pytest.mark.parametrize("kwargs", [{}, {"weight_decay": 0.1, "maximize": True}])
def test_complex_parameters_are_pairs_of_reals(kwargs: dict[str, Any]) -> None:
    params = [Parameter(torch.randn(shape, dtype=torch.complex64)) for shape in ((3, 2), (), (4,))]

    def grads(*models: list[Parameter]) -> None:
        for row in zip(*models, strict=True):
            grad = torch.randn_like(row[0], requires_grad=False)
            row[0].grad = grad.conj()  # lazily, which torch's optimizer cannot read
            row[1].grad = row[0].grad.resolve_conj()

    ours, theirs = _pair([*params, *parameters([(2,)])], initial_accumulator_value=0.1, **kwargs)
    for _ in range(4):
        models = [[p for g in o.param_groups for p in g["params"]] for o in (ours, theirs)]
        grads(*([model[:3] for model in models]))
        set_gradients(*([model[3:] for model in models]))
        ours.step()
        theirs.step()
        assert_same(*models, rtol=1e-6, atol=1e-7)
        assert_same_state(ours, theirs, rtol=1e-6)


def _relaid(tensor: Tensor) -> Tensor:
    """The same values, their elements in another order in memory."""
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def test_gradients_of_another_layout() -> None:
    params = parameters([(3, 4), (2, 3, 4, 5)])

    def relaid(*models: list[Parameter]) -> None:
        set_gradients(*models)
        for model in models:
            for param in model:
                param.grad = _relaid(param.grad)

    ours, theirs = _pair(params, lr=0.1)
    follow(ours, theirs, steps=3, gradients=relaid)
    expanded = torch.full((1, 1), 2.0).expand(3, 4)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["params"][0].grad = expanded
        optimizer.step()
    assert_same_state(ours, theirs, rtol=1e-6)
    assert torch.equal(expanded, torch.full((3, 4), 2.0))


def test_channels_last_weights_keep_their_layout() -> None:
    weight = Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    assert not weight.is_contiguous()
    ours, theirs = _pair([weight], lr=0.1)
    follow(ours, theirs, steps=3)
    assert ours.state[weight]["sum"].is_contiguous(memory_format=torch.channels_last)


def test_model_moved_to_channels_last_takes_its_accumulators_along() -> None:
    model = torch.nn.Conv2d(3, 4, 2)
    twin = torch.nn.Conv2d(3, 4, 2)
    twin.load_state_dict(model.state_dict())
    ours = Adagrad(model.parameters(), lr=0.1)
    theirs = torch.optim.Adagrad(twin.parameters(), lr=0.1, foreach=False)
    for layout in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=layout)
        for _ in range(2):
            set_gradients(list(model.parameters()), list(twin.parameters()))
            ours.step()
            theirs.step()
    assert_same(model.parameters(), twin.parameters(), rtol=1e-6, atol=1e-7)


def test_model_moved_to_another_dtype_takes_its_accumulators_along() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = Adagrad(model.parameters(), lr=0.1)
    params = list(model.parameters())
    set_gradients(params)
    optimizer.step()
    sums = [optimizer.state[param]["sum"].double() for param in params]
    model.double()
    before = copies(params)
    set_gradients(params)
    optimizer.step()
    for param, old, total in zip(params, before, sums, strict=True):
        total += param.grad**2
        torch.testing.assert_close(param.detach(), old.detach() - 0.1 * param.grad / total.sqrt())
        torch.testing.assert_close(optimizer.state[param]["sum"], total)


def test_ordinary_gradients_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first step the tensors pass to the op as they are, and are not even looked at."""
    params = parameters([(3,), (4, 2)])
    optimizer = Adagrad(params)
    seen: list[tuple[Any, ...]] = []

    def spy(*arguments: Any) -> Tensor:
        seen.append(arguments)
        return original(*arguments)

    original = adagrad_module.take_step
    monkeypatch.setattr(adagrad_module, "take_step", spy)
    for _ in range(2):
        set_gradients(params)
        optimizer.step()
        monkeypatch.setattr(Call, "prepare", lambda _: pytest.fail("looked at"))
    given, grads, sums, _ = seen[-1]
    assert all(ours is theirs for ours, theirs in zip(given, params, strict=True))
    assert all(ours is param.grad for ours, param in zip(grads, params, strict=True))
    assert all(s is optimizer.state[p]["sum"] for s, p in zip(sums, params, strict=True))


def test_version_counters_tell_autograd_of_the_step() -> None:
    weight = Parameter(torch.ones(3))
    optimizer = Adagrad([weight])
    loss = (weight * weight).sum()  # saves the weight
    weight.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_shared_accumulators() -> None:
    params = parameters([(3,), (2, 2)])
    optimizer = Adagrad(params)
    optimizer.share_memory()
    assert all(optimizer.state[param]["sum"].is_shared() for param in params)
    set_gradients(params)
    optimizer.step()
    assert all(optimizer.state[param]["sum"].is_shared() for param in params)
    assert_same([optimizer.state[p]["sum"] for p in params], [p.grad**2 for p in params], 1e-6, 0)


@pytest.fixture
def mesh(tmp_path: Any) -> Any:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()


def test_sharded_parameters_are_updated_shard_by_shard(mesh: Any) -> None:
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    values, grad = torch.randn(4, 3), torch.randn(4, 3)
    weight = Parameter(distribute_tensor(values.clone(), mesh, [Shard(0)]))
    plain = Parameter(values.clone())
    ours, theirs = Adagrad([weight], lr=0.1), torch.optim.Adagrad([plain], lr=0.1, foreach=False)
    for _ in range(3):
        weight.grad = distribute_tensor(grad.clone(), mesh, [Shard(0)])
        plain.grad = grad.clone()
        ours.step()
        theirs.step()
    assert isinstance(ours.state[weight]["sum"], DTensor)
    assert_same([weight.to_local()], [plain], rtol=1e-6, atol=1e-7)


def test_rows_of_shards_are_refused(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    weight = Parameter(distribute_tensor(torch.randn(4, 3), mesh, [Shard(0)]))
    with pytest.raises(ValueError, match="accumulators of rows have no shards"):
        AdagradNorm([weight], row_wise=True)


def test_a_delayed_norm_over_shards_is_refused(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    weight = Parameter(distribute_tensor(torch.randn(4, 3), mesh, [Shard(0)]))
    weight.grad = distribute_tensor(torch.randn(4, 3), mesh, [Shard(0)])
    before = weight.to_local().detach().clone()
    with pytest.raises(RuntimeError, match="norms over shards are not known here"):
        DelayedAdagradNorm([weight]).step()
    assert torch.equal(weight.to_local(), before)
