"""Sparse data sets in the libsvm format, and linear models on their rows."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from results import Options
from sklearn.datasets import load_svmlight_file
from tasks import linear, required
from torch import Tensor, nn
from torch.nn import functional as F
from training import Task

#: Features of each data set; above this share of zeros the rows stay sparse.
FEATURES = {"a4a": 123, "a9a": 123, "w8a": 300, "mushrooms": 112, "news20": 62_061}
DENSE_FEATURES = 1000


class DataSet(NamedTuple):
    """Rows ``[samples, features]``, CSR float32, and labels from 0."""

    rows: scipy.sparse.csr_matrix
    labels: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def read(path: Path, features: int) -> DataSet:
    """Read a file; whatever its labels are, they become 0, 1, ... in ascending order."""
    rows, labels = load_svmlight_file(str(path), n_features=features, dtype=np.float32)
    return DataSet(rows, np.unique(labels, return_inverse=True)[1])


def data_set(name: str, options: Options) -> DataSet:
    """A data set by name; a made-up one of the same kind at smoke size."""
    if options.size == "smoke":
        return _made_up(5 if name == "news20" else 2)
    return _read(required(options.data_dir, f"libsvm/{name}.bz2"), FEATURES[name])


@cache
def _read(path: Path, features: int) -> DataSet:
    return read(path, features)


def _made_up(classes: int, samples: int = 200, features: int = 40) -> DataSet:
    generator = np.random.default_rng(0)
    # Frequent features first, as words are.
    frequency = 1.0 / np.arange(1, features + 1) ** 0.7
    dense = (generator.random((samples, features)) < frequency).astype(np.float32)
    scores = dense @ generator.standard_normal((features, classes))
    return DataSet(scipy.sparse.csr_matrix(dense), scores.argmax(1))


def split(data: DataSet) -> tuple[DataSet, DataSet]:
    """Nine tenths and the rest, the same every time."""
    order = np.random.default_rng(0).permutation(len(data.labels))
    border = len(order) * 9 // 10
    first, second = order[:border], order[border:]
    return (
        DataSet(data.rows[first], data.labels[first]),
        DataSet(data.rows[second], data.labels[second]),
    )


class Rows:
    """Sparse rows that are picked like those of a tensor, as sparse tensors."""

    def __init__(self, rows: scipy.sparse.csr_matrix) -> None:
        self._rows = rows

    def __getitem__(self, picked: Any) -> Tensor:
        rows = self._rows[np.asarray(picked)].tocoo()
        places = torch.from_numpy(np.stack([rows.row, rows.col]).astype(np.int64))
        return torch.sparse_coo_tensor(
            places,
            torch.from_numpy(rows.data),
            rows.shape,
            is_coalesced=True,
            check_invariants=False,
        )

    def all(self) -> Tensor:
        """Every row."""
        return self[np.arange(self._rows.shape[0])]


class SparseLinear(nn.Linear):
    """A linear layer on sparse rows."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.sparse.mm(rows, self.weight.t()) + self.bias


def regression(train: DataSet, held_out: DataSet) -> Task:
    """Logistic regression from zero: two classes by one output, more by as many outputs."""
    features = train.rows.shape[1]
    if features > DENSE_FEATURES or train.classes > 2:
        return _multinomial(train, held_out)
    inputs, held = (torch.from_numpy(part.rows.toarray()) for part in (train, held_out))
    targets, held_targets = (torch.from_numpy(p.labels).float() for p in (train, held_out))
    return linear(inputs, targets, (held, held_targets), partial(_zero, nn.Linear, features, 1))


def _multinomial(train: DataSet, held_out: DataSet) -> Task:
    inputs, held = Rows(train.rows), Rows(held_out.rows).all()
    everything = inputs.all()
    targets, held_targets = (torch.from_numpy(part.labels) for part in (train, held_out))

    def metrics(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            found, scores = model(everything), model(held)
        return {
            "train_loss": F.cross_entropy(found, targets).item(),
            "test_loss": F.cross_entropy(scores, held_targets).item(),
            "test_accuracy": (scores.argmax(1) == held_targets).float().mean().item(),
        }

    build = partial(_zero, SparseLinear, train.rows.shape[1], train.classes)
    return Task(inputs, targets, build, partial(F.cross_entropy, reduction="sum"), metrics)


def _zero(kind: type[nn.Linear], features: int, outputs: int) -> nn.Linear:
    layer = kind(features, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
