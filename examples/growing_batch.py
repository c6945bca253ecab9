"""From a plain loop to a growing batch and its picture: python examples/growing_batch.py [FOLDER].

Three steps, each a function below:

1. `train` with a fixed batch is the loop that everybody writes.
2. `train` with a controller is the same loop; its lines with `controller` are all that is new.
3. `adadagrad-kernels report` turns the two metrics files into one page with pictures.

Both runs see the same number of samples. Look at loss_over_steps in the page: the growing batch
gets there in fewer steps. Then at loss: over samples it does not.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import adadagrad_kernels as adk

BUDGET = 30_000  # samples

digits = load_digits()
inputs, targets = torch.tensor(digits.data / 16).float(), torch.tensor(digits.target)
train_set = TensorDataset(inputs[:1400], targets[:1400])
test_inputs, test_targets = inputs[1400:], targets[1400:]
loss_fn = nn.CrossEntropyLoss()


def train(folder: Path, criterion: adk.NormTest | None) -> None:
    """Train for the budget, with a batch of 8 or one that grows from 8; metrics into a folder."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.02)
    # Without a criterion the controller keeps the size, and counts.
    controller = adk.BatchController(
        criterion, batch_size=8, max_batch_size=8 if criterion is None else 512
    )
    sampler = adk.AdaptiveBatchSampler(train_set, controller, total_samples=BUDGET)
    loader = DataLoader(train_set, batch_sampler=sampler)
    writer = adk.JsonlWriter(folder / "metrics.jsonl")
    # Measured in the steps alone whose statistics the controller will use.
    recorder = adk.layer_statistics(model, when=controller.wants_test)
    with recorder, writer:
        for batch, labels in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(batch), labels)
            loss.backward()
            controller.update(recorder.statistics(), len(batch), loss=loss)
            optimizer.step()
            metrics = {"loss": loss.item(), "batch/used": len(batch), **controller.metrics()}
            if controller.steps % 20 == 0 or controller.samples_seen == BUDGET:
                metrics |= evaluate(model)
            writer.write(metrics, samples=controller.samples_seen, step=controller.steps)
    print(
        f"{folder.name}: {controller.steps} steps, average batch "
        f"{controller.average_batch_size:.0f}, test accuracy {metrics['test_accuracy']:.1%}"
    )


def evaluate(model: nn.Module) -> dict[str, float]:
    """Loss on the training set, loss and accuracy on the test set."""
    with torch.no_grad():
        scores = model(test_inputs)
        return {
            "train_loss": loss_fn(model(inputs[:1400]), targets[:1400]).item(),
            "test_loss": loss_fn(scores, test_targets).item(),
            "test_accuracy": (scores.argmax(1) == test_targets).float().mean().item(),
        }


def main(out: Path) -> int:
    """Both runs, and the page."""
    train(out / "fixed", None)
    train(out / "growing", adk.NormTest(eta=0.5))
    from adadagrad_kernels.cli import main as command

    return command(["report", str(out / "fixed"), str(out / "growing"), "--out", str(out)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
