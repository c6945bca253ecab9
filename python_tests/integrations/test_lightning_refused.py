"""What ``AdaptiveBatch`` refuses in Lightning's Trainer or warns of, before anything is trained."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

import lightning_runs
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning_runs import BUDGET, SAMPLES, Blobs, Classifier, controller
from support.ranks import Told, values

import adadagrad_kernels as adk
from adadagrad_kernels import ranks
from adadagrad_kernels.integrations.lightning import AdaptiveBatch
from adadagrad_kernels.integrations.lightning.checks import MEASURED

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore::UserWarning:lightning",
)


def _refused(match: str, module: Any = None, loader: Any = None, **options: Any) -> None:
    callback = AdaptiveBatch(controller(), total_samples=BUDGET)
    module = (module or Classifier)(callback)
    before = copy.deepcopy(module.state_dict())
    given = callback.dataloader(Blobs()) if loader is None else loader(callback)
    with pytest.raises(ValueError, match=match):
        lightning_runs.trainer(callback, **options).fit(module, given)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), "nothing was trained"
    assert "forward" not in module.net[0].__dict__, "nothing is measured any more"


def test_accumulation_is_refused() -> None:
    _refused(r"accumulate_grad_batches=4.*manual optimization", accumulate_grad_batches=4)


def test_a_loader_without_the_controller_is_refused() -> None:
    _refused(
        r"DataLoader with a BatchSampler, whose batches no controller decides on.*dataloader",
        loader=lambda _: torch.utils.data.DataLoader(Blobs(), batch_size=6),
    )


def test_a_loader_with_a_length_is_refused() -> None:
    def made(callback: AdaptiveBatch) -> Any:
        sampler = adk.AdaptiveBatchSampler(SAMPLES, callback.controller)
        return torch.utils.data.DataLoader(Blobs(), batch_sampler=sampler)

    _refused(r"AdaptiveBatchSampler.*a length by which Lightning plans", loader=made)


def test_a_loader_of_torch_is_refused_on_ranks(told: dict[str, list[Told]]) -> None:
    """By Lightning itself, which would replace its sampler."""
    for of_rank in told["a_loader_of_torch"]:
        assert of_rank.error == "TypeError"
        assert "inject a (distributed) sampler" in of_rank.message


def test_strategies_that_are_not_measured_are_refused() -> None:
    class Sharded(SingleDeviceStrategy):
        pass

    _refused("the Trainer's strategy is a Sharded", strategy=Sharded("cpu"))
    assert DDPStrategy in MEASURED


def test_several_optimizers_are_refused() -> None:
    class Two(Classifier):
        def __init__(self, adaptive: AdaptiveBatch) -> None:
            super().__init__(adaptive, micro=4)

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    _refused("2 optimizers; accepted is one", Two)


class _Twice(Classifier):
    def __init__(self, adaptive: AdaptiveBatch) -> None:
        super().__init__(adaptive, micro=4)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for _ in range(2):
            self.manual_backward(self.loss(batch))


def test_passes_whose_samples_nobody_knows_are_refused() -> None:
    _refused("a second backward pass in one step", _Twice)


class _Short(_Twice):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        for part in self.adaptive.micro_batches(batch, 4):
            self.manual_backward(self.loss(part))
            break


def test_half_a_batch_is_refused() -> None:
    _refused("took 1 backward passes less", _Short)


class _Automatic(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return sum(self.loss(part) for part in self.adaptive.micro_batches(batch, 4))


def test_parts_in_automatic_optimization_are_refused() -> None:
    _refused("set self.automatic_optimization = False", _Automatic)


def test_options_that_the_sampler_stands_for_are_refused() -> None:
    callback = AdaptiveBatch(controller())
    with pytest.raises(ValueError, match="batch_size= has no meaning here, the controller says"):
        callback.dataloader(Blobs(), batch_size=4)


def test_a_gradient_that_is_not_finite_is_an_error_on_every_rank(
    told: dict[str, list[Told]],
) -> None:
    """Before anything is stepped along it; or it is recorded, and the size stays."""
    for rank, (whole, in_parts, of_parts) in enumerate(values(told["not_a_number"])):
        for said, steps, _, finite in (whole, in_parts, of_parts):
            assert steps == 3
            assert finite
            assert "not finite" in said
        for said, *_ in (whole, in_parts):
            assert "layer 'net.3' (Linear) has per-sample gradients" in said
            assert said.startswith("rank 1: ") == (rank == 0)
        assert "gradients of the micro-batches" in of_parts[0]
    for said, steps, not_finite, finite in values(told["not_a_number_that_is_recorded"]):
        assert said == "no error"
        assert not_finite == steps - 3 > 0
        assert not finite


def test_a_trainer_that_does_not_know_of_the_others_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where nothing is measured."""
    callback = AdaptiveBatch(adk.BatchController(None, batch_size=6, max_batch_size=6))
    module = Classifier(callback)
    made = lightning_runs.trainer(callback)
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"runs with 2 processes.*trains with 1.*strategy='ddp'"):
        callback.on_train_start(made, module)


def test_ranks_with_other_settings_are_refused(told: dict[str, list[Told]]) -> None:
    for of_rank in told["other_settings_on_one_rank"]:
        assert of_rank.error == "ValueError"
        assert "the ranks have different samplers: seed is 0, 1" in of_rank.message


def test_schedulers_that_count_steps_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Steps(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            falls = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=40)
            return [optimizer], [{"scheduler": falls, "interval": "step"}]

    callback = AdaptiveBatch(controller(), total_samples=24)
    with caplog.at_level(logging.WARNING, "adadagrad_kernels"):
        lightning_runs.trainer(callback).fit(Steps(callback), callback.dataloader(Blobs()))
    assert "LinearLR counts steps" in caplog.text
