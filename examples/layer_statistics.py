"""A transformer on digits, measured while it trains: python examples/layer_statistics.py."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import adadagrad_kernels as adk

MICRO_BATCH = 64  # samples that fit into memory at a time

digits = load_digits()
images, labels = torch.tensor(digits.images / 16).float(), torch.tensor(digits.target)
loss_fn = nn.CrossEntropyLoss(reduction="sum")


class Reader(nn.Module):
    """Reads an image row by row: eight tokens of eight pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.positions = nn.Linear(8, width), nn.Embedding(8, width)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True), 2
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the digits."""
        tokens = self.embed(x) + self.positions(torch.arange(8))
        logits: Tensor = self.head(self.layers(tokens).mean(1))
        return logits


torch.manual_seed(0)
torch.set_num_threads(1)  # so small a model is not faster on several
model = Reader()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
controller = adk.BatchController(
    adk.NormTest(eta=0.7), batch_size=16, max_batch_size=512, test_interval=2, growth_cap=1.25
)
sampler = adk.AdaptiveBatchSampler(len(images), controller, total_samples=15_000)

# Statistics of the steps for which the controller asks; the others cost nothing.
with adk.layer_statistics(model, when=controller.wants_test) as recorder:
    for indices in sampler:
        optimizer.zero_grad()
        for rows in torch.split(torch.tensor(indices), MICRO_BATCH):
            (loss_fn(model(images[rows]), labels[rows]) / len(indices)).backward()
        statistics = recorder.statistics()
        optimizer.step()
        if statistics is None:
            controller.step(len(indices))
        else:
            controller.update(statistics)

with torch.no_grad():
    accuracy = (model(images).argmax(1) == labels).float().mean().item()
print(f"{controller.steps} steps, batch 16 -> {controller.batch_size}, accuracy {accuracy:.2f}")
