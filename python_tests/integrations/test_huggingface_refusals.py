"""What AdaptiveTrainer refuses of several processes: shards, and those it does not know of."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from trainer_models import Text, bert
from transformers import TrainingArguments

import adadagrad_kernels as adk
from adadagrad_kernels import ranks
from adadagrad_kernels.integrations.huggingface import AdaptiveTrainer
from adadagrad_kernels.integrations.huggingface.arguments import require_arguments


def arguments(folder: Path, **changed: Any) -> TrainingArguments:
    """With some as they are where their libraries are installed and launched."""
    args = TrainingArguments(str(folder), use_cpu=True, report_to=[], disable_tqdm=True)
    for name, value in changed.items():
        setattr(args, name, value)
    return args


def made(args: TrainingArguments, model: Any = None) -> AdaptiveTrainer:
    controller = adk.BatchController(adk.NormTest(eta=0.5), batch_size=8, max_batch_size=64)
    return AdaptiveTrainer(
        model or bert(), args, train_dataset=Text(classes=True), controller=controller, samples=60
    )


def test_a_model_in_a_wrapper_is_refused(tmp_path: Path) -> None:
    """On several ranks the Trainer would not find the columns that it takes."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(bert())
        with pytest.raises(ValueError, match=r"by itself\. Way out: pass the model"):
            made(arguments(tmp_path), wrapped)
        del wrapped
        gc.collect()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fsdp", "full_shard"),
        ("deepspeed", {"zero_optimization": {"stage": 2}}),
        ("parallelism_config", object()),
    ],
)
def test_models_in_parts_are_refused(name: str, value: object, tmp_path: Path) -> None:
    args = arguments(tmp_path, **{name: value})
    with pytest.raises(ValueError, match=rf"{name}=.*hold whole models \(DDP\)"):
        require_arguments(args)


def test_the_trainer_asks_its_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="deepspeed="):
        made(arguments(tmp_path, deepspeed={"zero_optimization": {"stage": 2}}))


def test_processes_that_the_trainer_does_not_know_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on machines without a GPU, where each would train a model of its own."""
    trainer = made(arguments(tmp_path))
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"runs with 2 processes.*trains with 1.*use_cpu=True"):
        trainer.begin_measuring()
