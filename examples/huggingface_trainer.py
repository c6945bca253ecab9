"""GPT-2 by Hugging Face's Trainer, its batch growing: python examples/huggingface_trainer.py.

Also on two processes: torchrun --nproc-per-node 2 examples/huggingface_trainer.py
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.huggingface import AdaptiveTrainer

LETTERS, LENGTH = 26, 16

# Walks through the alphabet, such as "cfilo...": two letters of a line tell all others.
draw = torch.Generator().manual_seed(0)
start = torch.randint(LETTERS, (650, 1), generator=draw)
stride = torch.randint(1, 6, (650, 1), generator=draw)
lines = (start + torch.arange(LENGTH) * stride) % LETTERS


class Lines(Dataset[dict[str, Tensor]]):
    """Lines of text, as the Trainer takes them."""

    def __init__(self, lines: Tensor) -> None:
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.lines[index], "labels": self.lines[index]}


def main(out: str) -> None:
    """Train, and say what became of the batch."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=LETTERS,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    controller = adk.BatchController(
        adk.NormTest(eta=0.8), batch_size=8, max_batch_size=256, growth_cap=1.1
    )
    args = TrainingArguments(
        out,
        use_cpu=not torch.cuda.is_available(),
        num_train_epochs=6,
        per_device_train_batch_size=64,  # a micro-batch; the controller says the batch
        learning_rate=5e-3,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = AdaptiveTrainer(
        GPT2LMHeadModel(config),
        args,
        train_dataset=Lines(lines[:-50]),
        eval_dataset=Lines(lines[-50:]),
        controller=controller,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        first, *_, last = (
            log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log
        )
        print(
            f"{controller.steps} steps, {trainer.state.epoch:g} epochs, batch 8 -> "
            f"{controller.batch_size}, loss {first:.3f} -> {last:.3f}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1] if len(sys.argv) > 1 else folder)
