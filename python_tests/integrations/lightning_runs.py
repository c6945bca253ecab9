"""Trainings with Lightning's own Trainer, in this process or on every rank of a world."""

from __future__ import annotations

import collections
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import adadagrad_kernels as adk
from adadagrad_kernels import ranks
from adadagrad_kernels.integrations.lightning import AdaptiveBatch

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

SAMPLES, BUDGET = 96, 240


class Blobs(Dataset[tuple[Tensor, Tensor, int]]):
    """Points around three centers, each with its own index."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.targets = torch.arange(SAMPLES) % 3
        noise = torch.randn(SAMPLES, 5, generator=generator, dtype=torch.float64)
        self.inputs = torch.eye(3, 5, dtype=torch.float64)[self.targets] + noise

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.inputs[index], self.targets[index], index


class Classifier(LightningModule):
    """Two layers, in float64 so that another order of sums shows in the last digits alone."""

    def __init__(self, adaptive: AdaptiveBatch, *, dropout: float = 0.0, micro: int = 0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))
        self.double()
        self.adaptive, self.micro = adaptive, micro
        self.automatic_optimization = not micro
        self.seen: list[list[int]] = []
        self.rates: list[float] = []
        self.validated: list[int] = []

    def loss(self, batch: Any) -> Tensor:
        inputs, targets, _ = batch
        return F.cross_entropy(self.net(inputs), targets)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self.seen.append(batch[2].tolist())
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        if not self.micro:
            return self.loss(batch)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for part in self.adaptive.micro_batches(batch, self.micro):
            self.manual_backward(self.loss(part))
        optimizer.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        return None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(self.trainer.global_step)
        self.log("val_loss", self.loss(batch))

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Blobs(), batch_size=SAMPLES, shuffle=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.3, momentum=0.9)
        falls = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda seen: 1.0 - seen / BUDGET)
        return [optimizer], [self.adaptive.lr_scheduler(falls, samples_per_step=1)]


def losses(module: Any, batch: Any) -> Tensor:
    """Those of the samples, for inner products."""
    return F.cross_entropy(module.net(batch[0]), batch[1], reduction="none")


def controller(criterion: Any = None, **options: Any) -> adk.BatchController:
    settings: dict[str, Any] = {"batch_size": 6, "max_batch_size": 40, "growth_cap": 1.4}
    return adk.BatchController(criterion or adk.NormTest(1.0), **{**settings, **options})


def trainer(*callbacks: Callback, **options: Any) -> Trainer:
    """On CPU, one thread for each rank, nothing written."""
    world = ranks.world_size()
    if world > 1:
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT="1",
            LOCAL_RANK=str(ranks.own_rank()),
            NODE_RANK="0",
            WORLD_SIZE=str(world),
        )
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": world,
        "strategy": "ddp" if world > 1 else "auto",
        "max_epochs": 50,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
    }
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    return Trainer(callbacks=list(callbacks), **{**settings, **options})


class Watch(Callback):
    """Notes what the user could see after every step."""

    def __init__(self, adaptive: AdaptiveBatch) -> None:
        self.adaptive = adaptive
        self.sizes: list[int] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.sizes.append(int(self.adaptive.controller.samples_seen) - sum(self.sizes))


def fit(
    *,
    dropout: float = 0.0,
    micro: int = 0,
    criterion: Any = None,
    folder: Path | None = None,
    save_at: int = 0,
    resume: Path | None = None,
    loader: dict[str, Any] | None = None,
    adaptive: dict[str, Any] | None = None,
    also: Sequence[Callback] = (),
    **options: Any,
) -> dict[str, Any]:
    """What a training came to."""
    settings = {"seed": 5, "total_samples": BUDGET, **(adaptive or {})}
    callback = AdaptiveBatch(controller(criterion), **settings)
    module = Classifier(callback, dropout=dropout, micro=micro)
    watch = Watch(callback)
    callbacks: list[Callback] = [callback, watch, *also]
    if folder is not None:
        saves = ModelCheckpoint(
            dirpath=folder, every_n_train_steps=save_at, save_top_k=-1, filename="at-{step}"
        )
        callbacks.append(saves)
        options["enable_checkpointing"] = True
    torch.manual_seed(7)
    made = trainer(*callbacks, **options)
    made.fit(module, callback.dataloader(Blobs(), **(loader or {})), ckpt_path=resume)
    return {
        "weights": torch.cat([p.detach().flatten() for p in module.parameters()]).tolist(),
        "sizes": watch.sizes,
        "seen": module.seen,
        "rates": module.rates,
        "validated": module.validated,
        "steps": made.global_step,
        "epoch": made.current_epoch,
        "controller": callback.controller.state_dict(),
        "lr": made.optimizers[0].param_groups[0]["lr"],
    }


def close(first: list[float], second: list[float], tolerance: float = 1e-12) -> bool:
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) < tolerance


def drawn(runs: list[dict[str, Any]]) -> collections.Counter[int]:
    return collections.Counter(i for run in runs for step in run["seen"] for i in step)


def even(counts: collections.Counter[int], budget: int = BUDGET) -> bool:
    """Whether a budget was drawn, every sample as often as each other but for the last epoch."""
    whole = budget // SAMPLES
    return sum(counts.values()) == budget and set(counts.values()) <= {whole, whole + 1}
