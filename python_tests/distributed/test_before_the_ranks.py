"""What is made before torch.distributed is set up does not go on as if it were alone."""

from __future__ import annotations

import pytest
import torch

import adadagrad_kernels as adk
from adadagrad_kernels import ranks, wrappers
from adadagrad_kernels.distributed import Ranks, WorkerGradients


def test_a_sampler_refuses_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = adk.AdaptiveBatchSampler(8, 4)
    assert len(list(sampler)) == 2
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="made for 1 ranks, but"):
        iter(sampler)
    assert len(list(adk.AdaptiveBatchSampler(8, 4, rank=0, world_size=1))) == 2


def test_layer_statistics_refuses_to_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 1)
    recorder = adk.layer_statistics(model)
    local = adk.layer_statistics(torch.nn.Linear(2, 1), ranks="local")
    monkeypatch.setattr(wrappers, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"runs with 2 ranks.*ranks='local'"), recorder:
        pass
    assert "forward" not in vars(model)
    with local:
        local.model(torch.ones(3, 2)).mean().backward()
        assert local.statistics().batch_size == 3


def test_optimizers_refuse_to_step_along_one_ranks_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [torch.nn.Embedding(3, 1, _weight=torch.zeros(3, 1)) for _ in range(2)]
    auto, local = (
        adk.EmbeddingMean(layer, ranks=choice)
        for layer, choice in zip(layers, ("auto", "local"), strict=True)
    )
    for layer in layers:
        layer(torch.tensor([[0, 1], [0, 2]])).mean().backward()
    row = adk.ops.CsrRows(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([3.0]))
    weight, ones = torch.zeros(2), torch.ones(2)
    svrg = adk.SparseSvrg(weight, ones, ones)
    monkeypatch.setattr(wrappers, "world_size", lambda: 2)
    before = layers[0].weight.grad.clone()
    with pytest.raises(ValueError, match=r"runs with 2 ranks.*ranks=Ranks\(\), which counts over"):
        auto.rescale_()
    assert torch.equal(layers[0].weight.grad, before)
    local.rescale_()
    assert not torch.equal(layers[1].weight.grad, before)
    with pytest.raises(ValueError, match=r"runs with 2 ranks.*gather the rows of all ranks"):
        svrg.step_(weight, row, row, lr=0.1)
    assert not weight.any()


def test_ranks_need_torch_distributed() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        Ranks()
    with pytest.raises(ValueError, match="there is only one"):
        WorkerGradients(torch.nn.Linear(2, 1))


def test_one_process_needs_no_ranks() -> None:
    assert ranks.world_size() == 1
    assert ranks.own_rank() == 0
    for choice in ("auto", "local"):
        source = adk.PerSampleGradients(
            torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, ranks=choice
        )
        record = source.backward(torch.ones(4, 2), torch.zeros(4, 1))
        assert record.agreement is None
        assert record.batch_size == 4
