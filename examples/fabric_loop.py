"""GPT-2 in a loop of Fabric, its batch growing: python examples/fabric_loop.py [RANKS]."""

from __future__ import annotations

import sys

import torch
from lightning.fabric import Fabric
from torch.utils.data import TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.fabric import adaptive_steps

BUDGET = 4_000  # samples
LETTERS, LENGTH = 26, 16

# Walks through the alphabet, such as "cfilo...": two letters of a line tell all others.
draw = torch.Generator().manual_seed(0)
start = torch.randint(LETTERS, (650, 1), generator=draw)
stride = torch.randint(1, 6, (650, 1), generator=draw)
lines = (start + torch.arange(LENGTH) * stride) % LETTERS


def main(processes: int) -> None:
    """Train, and say what became of the batch."""
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=processes)
    fabric.launch()
    fabric.seed_everything(0)
    config = GPT2Config(
        vocab_size=LETTERS,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    gpt2 = GPT2LMHeadModel(config)
    model, optimizer = fabric.setup(gpt2, torch.optim.AdamW(gpt2.parameters(), lr=5e-3))

    controller = adk.BatchController(
        adk.NormTest(eta=0.8), batch_size=8, max_batch_size=256, growth_cap=1.1
    )
    steps = adaptive_steps(
        fabric, model, TensorDataset(lines[:-50]), controller, micro_batch_size=64, samples=BUDGET
    )
    # For a checkpoint: fabric.save(path, {"model": model, "optimizer": optimizer, "steps": steps})
    for step in steps:
        for (letters,) in step:
            step.backward(model(letters, labels=letters).loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        fabric.log_dict(step.metrics(), step=controller.steps)

    model.eval()
    with torch.no_grad():
        letters = fabric.to_device(lines[-50:])
        loss = model(letters, labels=letters).loss.item()
    fabric.print(
        f"{controller.steps} steps, batch 8 -> {controller.batch_size}, unseen loss {loss:.2f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
