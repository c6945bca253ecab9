"""GPT-2 by Lightning's Trainer, its batch growing: python examples/lightning_module.py.

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
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel

import adadagrad_kernels as adk
from adadagrad_kernels import integrations
from adadagrad_kernels.integrations.lightning import AdaptiveBatch

BUDGET = 4_000  # samples
LETTERS, LENGTH = 26, 16

# Walks through the alphabet, such as "cfilo...": two letters of a line tell all others.
draw = torch.Generator().manual_seed(0)
start = torch.randint(LETTERS, (650, 1), generator=draw)
stride = torch.randint(1, 6, (650, 1), generator=draw)
lines = (start + torch.arange(LENGTH) * stride) % LETTERS


class Writer(LightningModule):
    """GPT-2, which writes such lines."""

    def __init__(self, adaptive: AdaptiveBatch) -> None:
        super().__init__()
        config = GPT2Config(
            vocab_size=LETTERS,
            n_positions=LENGTH,
            n_embd=64,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
        self.gpt2 = GPT2LMHeadModel(config)
        self.adaptive = adaptive

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The mean loss of the lines."""
        (letters,) = batch
        loss: Tensor = self.gpt2(letters, labels=letters).loss
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """The loss of lines that it has not seen."""
        self.log("unseen_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        """A schedule over the budget, in units of 100 samples."""
        optimizer = torch.optim.AdamW(self.parameters())
        cycle = OneCycleLR(optimizer, max_lr=5e-3, total_steps=BUDGET // 100)
        return [optimizer], [self.adaptive.lr_scheduler(cycle, samples_per_step=100)]


def main() -> None:
    """Train for the budget, and tell what came of it."""
    train_set = TensorDataset(lines[:-50])
    unseen_loader = DataLoader(TensorDataset(lines[-50:]), batch_size=50)
    controller = adk.BatchController(
        adk.NormTest(eta=0.8), batch_size=8, max_batch_size=256, growth_cap=1.1
    )
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
    module, loader = Writer(adaptive), adaptive.dataloader(train_set)
    assert not integrations.doctor(trainer, module, loader)
    trainer.fit(module, loader, unseen_loader)
    print(
        f"{trainer.global_step} steps, {controller.samples_seen} samples, batch of 8 to "
        f"{controller.batch_size}, unseen loss {float(trainer.callback_metrics['unseen_loss']):.2f}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # What Lightning says of devices and workers.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    main()
