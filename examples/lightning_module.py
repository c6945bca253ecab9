"""A Lightning Trainer whose batch grows: python examples/lightning_module.py.

The module is as one would write it for a fixed batch. New are the callback, the loader that comes
from it, and a schedule that counts samples. On several processes nothing changes but
`Trainer(strategy="ddp", devices=2)`.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import adadagrad_kernels as adk
from adadagrad_kernels import integrations
from adadagrad_kernels.integrations.lightning import AdaptiveBatch

BUDGET = 20_000  # samples


class Digits(LightningModule):
    """A small classifier with dropout."""

    def __init__(self, adaptive: AdaptiveBatch) -> None:
        super().__init__()
        layers = nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10)
        self.net = nn.Sequential(*layers)
        self.loss = nn.CrossEntropyLoss()
        self.adaptive = adaptive

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The mean loss of the samples."""
        inputs, targets = batch
        loss: Tensor = self.loss(self.net(inputs), targets)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """The share of samples that are told right."""
        inputs, targets = batch
        self.log("accuracy", (self.net(inputs).argmax(1) == targets).float().mean())

    def configure_optimizers(self) -> Any:
        """A schedule over the budget, in units of 100 samples."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        cycle = OneCycleLR(optimizer, max_lr=0.3, total_steps=BUDGET // 100)
        return [optimizer], [self.adaptive.lr_scheduler(cycle, samples_per_step=100)]


def main() -> None:
    """Train for the budget, and tell what came of it."""
    digits = load_digits()
    inputs, targets = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
    train_set = TensorDataset(inputs[:1400], targets[:1400])
    test_loader = DataLoader(TensorDataset(inputs[1400:], targets[1400:]), batch_size=397)

    controller = adk.BatchController(adk.NormTest(eta=1.0), batch_size=16, max_batch_size=512)
    adaptive = AdaptiveBatch(controller, total_samples=BUDGET)
    trainer = Trainer(
        callbacks=[adaptive],
        accelerator="cpu",
        gradient_clip_val=1.0,
        val_check_interval=20,
        check_val_every_n_epoch=None,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module, loader = Digits(adaptive), adaptive.dataloader(train_set)
    assert not integrations.doctor(trainer, module, loader)
    trainer.fit(module, loader, test_loader)
    print(
        f"{trainer.global_step} steps, {controller.samples_seen} samples, batch of 16 to "
        f"{controller.batch_size}, accuracy {float(trainer.callback_metrics['accuracy']):.1%}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # What Lightning says of devices and workers.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    main()
