"""A transformer in a loop of Fabric, growing its batch: python examples/fabric_loop.py [RANKS]."""

from __future__ import annotations

import sys

import torch
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.fabric import adaptive_steps

BUDGET = 10_000  # samples


class Reader(nn.Module):
    """Reads an image row by row: eight tokens of eight pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.positions = nn.Linear(8, width), nn.Embedding(8, width)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True), 2
        )
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the digits."""
        tokens = self.embed(images) + self.positions(torch.arange(8, device=images.device))
        logits: torch.Tensor = self.head(self.layers(tokens).mean(1))
        return logits


def main(processes: int) -> None:
    """Train, and say what became of the batch."""
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=processes)
    fabric.launch()
    fabric.seed_everything(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.images / 16).float(), torch.tensor(digits.target))
    reader = Reader()
    model, optimizer = fabric.setup(reader, torch.optim.Adam(reader.parameters(), lr=3e-3))

    controller = adk.BatchController(
        adk.NormTest(eta=1.2), batch_size=16, max_batch_size=512, growth_cap=1.1
    )
    steps = adaptive_steps(fabric, model, data, controller, micro_batch_size=64, samples=BUDGET)
    # For a checkpoint: fabric.save(path, {"model": model, "optimizer": optimizer, "steps": steps})
    for step in steps:
        for images, labels in step:
            step.backward(cross_entropy(model(images), labels))
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        fabric.log_dict(step.metrics(), step=controller.steps)

    model.eval()
    with torch.no_grad():
        images, labels = (fabric.to_device(tensor) for tensor in data.tensors)
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    fabric.print(
        f"{controller.steps} steps, batch 16 -> {controller.batch_size}, accuracy {accuracy:.2f}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
