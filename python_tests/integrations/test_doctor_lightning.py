"""Traps of Lightning: each in a run of its Trainer, and gone where it is mended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

import lightning_runs
from lightning.pytorch import Callback
from lightning.pytorch.utilities.data import _update_dataloader
from traps import HiddenDoubling, Indices, OneHot, adaptive_loader, codes, controller

import adadagrad_kernels as adk
from adadagrad_kernels import integrations
from adadagrad_kernels.integrations.lightning import AdaptiveBatch

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore::UserWarning:lightning",
    "ignore:.set_vital. is deprecated:UserWarning",  # of torch, which torchdata reads
)


class _Grows(Callback):
    """Whose accumulation grows after the third batch."""

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, i: int
    ) -> None:
        if i == 2:
            trainer.accumulate_grad_batches = 4


def test_accumulation_changed() -> None:
    grows, module = _Grows(), OneHot(8)
    trainer = lightning_runs.trainer(grows, max_epochs=1)
    assert codes(trainer) == ["accumulation-changed"]
    trainer.fit(module, DataLoader(Indices(8), batch_size=1))
    assert module.stepped_along[2:4] == [{2: 1.0}, {2: 1.0, 3: 0.25}], "sample 2 counts twice"
    callback = AdaptiveBatch(controller(1, 3), total_samples=8)
    mended = OneHot(8)
    trainer = lightning_runs.trainer(callback)
    loader = callback.dataloader(Indices(8), shuffle=False)
    assert codes(trainer, loader, mended) == []
    trainer.fit(mended, loader)
    assert mended.stepped_along[-2:] == [{4: 0.5, 5: 0.5}, {6: 0.5, 7: 0.5}]
    assert codes(trainer) == []


def test_between_epochs_accumulation_may_change() -> None:
    class Schedules(Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            trainer.accumulate_grad_batches = 1 + trainer.current_epoch

    class Sets(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            setattr(trainer, "accumulate_grad_batches", 2)  # noqa: B010 - what is looked for

    assert codes(Schedules()) == []
    (finding,) = integrations.doctor(Sets())
    assert (
        finding.where == "the callback Sets assigns accumulate_grad_batches in on_train_batch_start"
    )


class _Own(BatchSampler):
    """Torch's with sizes of its own."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.size = batch_size

    def __iter__(self) -> Any:
        indices = list(self.sampler)
        while indices:
            yield indices[: self.size]
            indices = indices[self.size :]


def test_replaced_sampler() -> None:
    data = Indices(16)
    own = _Own(SequentialSampler(data), 4, False)
    loader = DataLoader(data, batch_sampler=own)
    replaced = _update_dataloader(loader, DistributedSampler(data, 2, 0))
    own.size = 8
    assert [len(batch) for batch in loader] == [8, 8]
    assert replaced.batch_sampler is not own, "which grows"
    with pytest.raises(TypeError, match="inject a"):
        _update_dataloader(adaptive_loader(data), DistributedSampler(data, 2, 0))
    assert codes(lightning_runs.trainer(), loader) == ["exposed-batch-size", "replaced-sampler"]
    hidden = DataLoader(data, batch_sampler=HiddenDoubling())
    assert codes(lightning_runs.trainer(), hidden) == ["replaced-sampler"]
    assert codes(lightning_runs.trainer(use_distributed_sampler=False), hidden) == []


def test_planned_by_length() -> None:
    class Counts(Callback):
        """Grows as it goes, and sees which batch Lightning knows as the last."""

        def __init__(self, decides: adk.BatchController) -> None:
            self.decides, self.last = decides, [False]

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.last.append(trainer.is_last_batch)

        def on_train_batch_end(self, *_: Any) -> None:
            if self.decides.samples_seen < 64:
                self.decides.step(self.decides.batch_size)

    data = Indices(64)
    counts = Counts(controller())
    sampler = adk.AdaptiveBatchSampler(data, counts.decides)
    loader = DataLoader(data, batch_sampler=sampler)
    options = {"use_distributed_sampler": False, "max_epochs": 1}
    trainer = lightning_runs.trainer(counts, **options)
    assert codes(trainer, loader) == ["planned-by-length"]
    trainer.fit(OneHot(64), loader)
    assert trainer.num_training_batches == 16
    assert trainer.global_step == 10
    assert not any(counts.last), "the last one was not known"

    callback = AdaptiveBatch(controller(), total_samples=64)
    knows = Counts(adk.BatchController(None, batch_size=1, max_batch_size=1))
    mended = lightning_runs.trainer(callback, knows, **options)
    loader = callback.dataloader(data)
    assert codes(mended, loader) == []
    mended.fit(OneHot(64), loader)
    assert mended.global_step == 11, "the new size one step later"
    assert [i for i, last in enumerate(knows.last) if last] == [11]


def test_modules_of_lightning() -> None:
    callback = AdaptiveBatch(controller(), total_samples=64)
    assert codes(lightning_runs.Classifier(callback)) == []

    class Steps(OneHot):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            falls = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=40)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falls, **self.when}}

    Steps.when = {"interval": "step"}  # type: ignore[attr-defined]
    (finding,) = integrations.doctor(Steps(4))
    assert finding.where == "Steps.configure_optimizers(), interval='step': LinearLR"
    Steps.when = {}  # type: ignore[attr-defined]
    assert codes(Steps(4)) == [], "it counts epochs"
