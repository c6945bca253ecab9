"""GPT-2 by Hugging Face's Trainer, its batch growing: python examples/huggingface_trainer.py.

Also on two processes: torchrun --nproc-per-node 2 examples/huggingface_trainer.py
"""

from __future__ import annotations

import sys
import tempfile

import torch
from sklearn import datasets
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.huggingface import AdaptiveTrainer

LENGTH = 32  # characters of a line

# What scikit-learn says of its data sets: real text, without a download.
names = ("iris", "digits", "wine", "breast_cancer", "diabetes", "linnerud")
text = "".join(getattr(datasets, f"load_{name}")().DESCR for name in names)
letters = sorted(set(text))
tokens = torch.tensor([letters.index(letter) for letter in text])
lines = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)


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
        vocab_size=len(letters),
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    controller = adk.BatchController(
        adk.NormTest(eta=1.0), batch_size=8, max_batch_size=256, growth_cap=1.1
    )
    args = TrainingArguments(
        out,
        num_train_epochs=8,
        per_device_train_batch_size=32,  # a micro-batch; the controller says the batch
        learning_rate=1e-2,
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
