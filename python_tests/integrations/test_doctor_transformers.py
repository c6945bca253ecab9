"""Traps of Hugging Face's Trainer, in the Trainer itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from transformers import Trainer, TrainerCallback, TrainingArguments

import adadagrad_kernels as adk
from adadagrad_kernels import integrations

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class _Rows(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.drawn.append(index)
        return {"x": torch.full((1,), float(index))}


class _Line(nn.Module):
    """Whose gradient is the mean of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (x * self.weight).mean()}


def trainer(folder: Path, *callbacks: TrainerCallback, kind: Any = Trainer, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "use_cpu": True,
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
    }
    return kind(
        _Line(),
        TrainingArguments(str(folder), **{**settings, **options}),
        train_dataset=_Rows(),
        callbacks=list(callbacks),
    )


def codes(*things: Any) -> list[str]:
    return [finding.code for finding in integrations.doctor(*things)]


class _Norms(TrainerCallback):
    """Reads the gradient where one would think that it is whole."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.seen.append(float(given["model"].weight.grad.norm()))


def test_clipped_before_test(tmp_path: Path) -> None:
    clipped, whole = _Norms(), _Norms()
    trap = trainer(tmp_path, clipped)
    trap.train()
    mended = trainer(tmp_path, whole, max_grad_norm=0.0)
    mended.train()
    assert max(clipped.seen) <= 1.0 + 1e-6 < min(whole.seen)
    (finding,) = integrations.doctor(trap)
    assert finding.code == "clipped-before-test"
    assert finding.where == "the callback _Norms, with max_grad_norm=1.0"
    assert codes(mended) == []
    assert codes(trainer(tmp_path)) == []


class _Grows(TrainerCallback):
    """Whose accumulation grows behind the third step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == 3:
            args.gradient_accumulation_steps = 4


class _Windows(TrainerCallback):
    """Counts the batches of every step."""

    def __init__(self) -> None:
        self.batches = [1]

    def on_substep_end(self, *_: Any, **given: Any) -> None:
        self.batches[-1] += 1

    def on_step_end(self, *_: Any, **given: Any) -> None:
        self.batches.append(1)


def test_accumulation_changed(tmp_path: Path) -> None:
    windows = _Windows()
    made = trainer(tmp_path, _Grows(), windows, max_steps=5, per_device_train_batch_size=1)
    assert codes(made) == ["accumulation-changed"]
    made.train()
    assert windows.batches[:4] == [1, 1, 1, 1], "the fourth step should have had 4"
    assert codes(trainer(tmp_path, windows)) == []


def test_step_scheduler(tmp_path: Path) -> None:
    """Planned from arguments, or made already."""
    planned = trainer(tmp_path, lr_scheduler_type="linear")
    (finding,) = integrations.doctor(planned)
    assert finding.code == "step-scheduler"
    assert finding.where == "TrainingArguments(lr_scheduler_type='linear')"
    planned.create_optimizer_and_scheduler(10)
    assert codes(planned) == ["step-scheduler"]
    constant = trainer(tmp_path)
    assert codes(constant) == []
    constant.create_optimizer_and_scheduler(10)
    assert codes(constant) == [], "its function reads no step"


class _Adaptive(Trainer):
    """Whose loader has a sampler that knows its place."""

    batches: adk.AdaptiveBatchSampler

    def get_train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator
        )


def test_recomputed_place(tmp_path: Path) -> None:
    def resumed(**options: Any) -> tuple[Any, list[int]]:
        made = trainer(tmp_path, kind=_Adaptive, max_steps=3, **options)
        made.batches = adk.AdaptiveBatchSampler(32, 4, shuffle=False)
        made.batches.load_state_dict(place)
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        return made, made.train_dataset.drawn

    first = trainer(tmp_path, kind=_Adaptive, save_strategy="steps", save_steps=2)
    first.batches = adk.AdaptiveBatchSampler(32, 4, shuffle=False)
    first.train()
    place = first.batches.state_dict(consumed=8)
    trap, drawn = resumed()
    mended, right = resumed(ignore_data_skip=True)
    assert right[:4] == [8, 9, 10, 11]
    assert drawn[:4] != [8, 9, 10, 11], "what two steps had trained on was skipped once more"
    assert "recomputed-place" in codes(trap)
    assert "recomputed-place" not in codes(mended)


def test_planned_by_length(tmp_path: Path) -> None:
    """A Trainer that is given a loader with a length plans with it."""
    made = trainer(tmp_path, kind=_Adaptive, ignore_data_skip=True)
    made.batches = adk.AdaptiveBatchSampler(32, 4)
    assert codes(made) == ["planned-by-length"]


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    before = list(made.accelerator._dataloaders)
    integrations.doctor(made)
    assert made.accelerator._dataloaders == before == []
    assert made.optimizer is None
    assert made.lr_scheduler is None
