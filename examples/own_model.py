r"""A model and data of your own under `adadagrad-kernels train`: python examples/own_model.py.

In the folder of this file the same is

    adadagrad-kernels train --model own_model:build --data own_model:load \
        --optimizer sgd --lr 0.05 --test norm --eta 1 --samples 8K --out runs/own
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn


def build(shape: Sequence[int], classes: int) -> nn.Module:
    """Scores ``[samples, classes]``, of inputs of this shape."""
    return nn.Sequential(
        nn.Linear(shape[0], 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, classes)
    )


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and classes to train on, inputs and classes to test with."""
    found = load_breast_cancer()
    inputs, targets = torch.tensor(found.data).float(), torch.tensor(found.target)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    train, test = order[:450], order[450:]
    inputs = (inputs - inputs[train].mean(0)) / inputs[train].std(0)
    return inputs[train], targets[train], inputs[test], targets[test]


if __name__ == "__main__":
    from adadagrad_kernels.cli import main

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as out:
        task = ["--model", "own_model:build", "--data", "own_model:load"]
        recipe = ["--optimizer", "sgd", "--lr", "0.05", "--test", "norm", "--eta", "1"]
        sys.exit(main(["train", *task, *recipe, "--samples", "8K", "--quiet", "--out", out]))
