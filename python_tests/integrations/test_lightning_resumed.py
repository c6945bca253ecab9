"""Runs of Lightning's Trainer that go on: from checkpoints, over epochs, by a second fit."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

import lightning_runs
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_runs import BUDGET, SAMPLES, Blobs, Classifier, controller, drawn, even, fit
from support.ranks import values

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.lightning import AdaptiveBatch

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore::UserWarning:lightning",
)


@pytest.mark.parametrize("kind", [0, 1], ids=["automatic", "in parts with a worker"])
@pytest.mark.parametrize(
    ("world", "case"),
    [
        pytest.param("told", "resumed", id="two"),
        pytest.param("of_four", "resumed_where_buckets_stay", id="four", marks=pytest.mark.nightly),
    ],
)
def test_a_resumed_run_is_the_run(
    request: pytest.FixtureRequest, world: str, case: str, kind: int
) -> None:
    """With dropout, and validations that draw random numbers of their own in between."""
    told = request.getfixturevalue(world)[case]
    for whole, again in (of_rank[kind] for of_rank in values(told)):
        assert again["weights"] == whole["weights"], "to the last bit"
        assert again["seen"] == whole["seen"][10:]
        assert again["controller"] == whole["controller"]
        assert again["rates"] == whole["rates"][10:]
        assert again["steps"] == whole["steps"]
        assert again["validated"] == whole["validated"][2:] != []


def test_epochs_are_passes_over_the_data(tmp_path: Path) -> None:
    options = {"adaptive": {"total_samples": None}, "max_epochs": 3, "limit_val_batches": 1}
    whole = fit(**options, dropout=0.2, folder=tmp_path, save_at=13)
    assert set(drawn([whole]).values()) == {3}
    starts = [0, *itertools.accumulate(whole["sizes"])]
    assert {SAMPLES, 2 * SAMPLES} <= set(starts), "no batch has samples of two epochs"
    ends = [place for place, seen in enumerate(starts) if seen and seen % SAMPLES == 0]
    assert whole["validated"] == ends
    assert whole["epoch"] == 3
    again = fit(**options, dropout=0.2, resume=tmp_path / "at-step=13.ckpt")
    assert again["weights"] == whole["weights"]
    assert again["seen"] == whole["seen"][13:]
    assert again["validated"] == [step for step in ends if step > 13]


@pytest.mark.parametrize("at_train_end", [False, True])
def test_resumed_at_the_end_of_an_epoch(tmp_path: Path, at_train_end: bool) -> None:
    options = {"adaptive": {"total_samples": None}, "dropout": 0.2, "limit_val_batches": 1}
    saves = ModelCheckpoint(
        dirpath=tmp_path, save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=at_train_end
    )
    whole = fit(**options, max_epochs=3, also=[saves], enable_checkpointing=True)
    again = fit(**options, max_epochs=3, resume=tmp_path / "epoch=1.ckpt")
    assert again["weights"] == whole["weights"]
    done = len(whole["seen"]) - len(again["seen"])
    assert again["seen"] == whole["seen"][done:]
    assert sum(map(len, whole["seen"][:done])) == 2 * SAMPLES


def test_a_learning_rate_rule_that_remembers_is_resumed(tmp_path: Path) -> None:
    whole, again = (
        fit(adaptive={"lr_rule": adk.AdaScale(6)}, **options)
        for options in (
            {"folder": tmp_path, "save_at": 15},
            {"resume": tmp_path / "at-step=15.ckpt"},
        )
    )
    assert max(whole["sizes"][15:]) > 6
    assert again["weights"] == whole["weights"]
    assert whole["weights"] != fit()["weights"]


def test_a_second_fit_goes_on() -> None:
    callback = AdaptiveBatch(controller(), total_samples=BUDGET, seed=5)
    module = Classifier(callback)
    loader = callback.dataloader(Blobs())
    for steps in (7, -1):
        made = lightning_runs.trainer(callback, max_steps=steps)
        made.fit(module, loader)
        assert steps < 0 or made.global_step == steps
        loader = callback.dataloader(Blobs())
    assert even(drawn([{"seen": module.seen}]))
    assert len(module.seen) > 7
    assert module.seen[:7] == fit()["seen"][:7]


def test_a_checkpoint_of_something_else_is_refused() -> None:
    callback = AdaptiveBatch(controller())
    with pytest.raises(ValueError, match="not a state of AdaptiveBatch: it lacks controller"):
        callback.load_state_dict({})


def test_a_checkpoint_of_another_optimizer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(folder=tmp_path, save_at=5)
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "SGD", lambda params, lr, **_: adam(params, lr))
    with pytest.raises(ValueError, match=r"optimizer: class SGD, groups .*, not class Adam"):
        fit(resume=tmp_path / "at-step=5.ckpt")


def test_a_checkpoint_of_more_ranks_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    callback = AdaptiveBatch(controller(), total_samples=24)
    state = callback.state_dict()
    with caplog.at_level(logging.WARNING, "adadagrad_kernels"):
        callback.load_state_dict({**state, "random": [None, None]})
    assert "random numbers of 2 ranks, and 1 train now" in caplog.text
    lightning_runs.trainer(callback).fit(Classifier(callback), callback.dataloader(Blobs()))
    assert callback.controller.samples_seen == 24
