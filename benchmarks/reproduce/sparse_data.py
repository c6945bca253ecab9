"""Sparse data sets in the libsvm format, and linear models on their rows."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from adadagrad_kernels.training.data import Samples
from benchmarks.reproduce.libsvm import read_libsvm
from benchmarks.reproduce.results import Options
from benchmarks.reproduce.tasks import Task, linear, required

#: Features of each data set; rows of more than ``DENSE_FEATURES`` stay sparse.
FEATURES = {"a4a": 123, "a9a": 123, "w8a": 300, "mushrooms": 112, "news20": 62_061}
DENSE_FEATURES = 1000


class DataSet(NamedTuple):
    """Rows ``[samples, features]``, CSR float32, and labels 0 and 1."""

    rows: scipy.sparse.csr_matrix
    labels: np.ndarray


def read(path: Path, features: int) -> DataSet:
    """Read a file. Of more than two classes the first half become 0 and the others 1."""
    rows, classes = read_libsvm(path, features, "classes")
    return DataSet(rows, (classes >= (classes.max() + 1) // 2).astype(np.float32))


def data_set(name: str, options: Options) -> DataSet:
    """A data set by name; a made-up one of the same kind at smoke size."""
    if options.size == "smoke":
        return _made_up(name)
    return _read(required(options.data_dir, f"libsvm/{name}.bz2"), FEATURES[name])


@cache
def _read(path: Path, features: int) -> DataSet:
    return read(path, features)


def _made_up(name: str, samples: int = 200) -> DataSet:
    generator = np.random.default_rng(0)
    features = 2 * DENSE_FEATURES if FEATURES[name] > DENSE_FEATURES else 40
    # Frequent features first, as words are.
    frequency = 1.0 / np.arange(1, features + 1) ** 0.7
    dense = (generator.random((samples, features)) < frequency).astype(np.float32)
    scores = dense @ generator.standard_normal(features)
    return DataSet(scipy.sparse.csr_matrix(dense), (scores > np.median(scores)).astype(np.float32))


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
    """Sparse rows that are picked and cut like those of a tensor."""

    def __init__(self, rows: scipy.sparse.csr_matrix) -> None:
        self._rows = rows

    def index_select(self, dim: int, indices: Tensor) -> Rows:
        """The rows with these indices."""
        return Rows(self._rows[indices.numpy()])

    def __getitem__(self, part: slice) -> Rows:
        return Rows(self._rows[part])

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def tensor(self) -> Tensor:
        """All of them as a sparse tensor."""
        rows = self._rows.tocoo()
        places = torch.from_numpy(np.stack([rows.row, rows.col]).astype(np.int64))
        return torch.sparse_coo_tensor(
            places,
            torch.from_numpy(rows.data),
            rows.shape,
            is_coalesced=True,
            check_invariants=False,
        )


class SparseLinear(nn.Linear):
    """A linear layer on sparse rows."""

    def forward(self, rows: Rows) -> Tensor:
        return torch.sparse.mm(rows.tensor(), self.weight.t()) + self.bias


def regression(name: str, train: DataSet, held_out: DataSet) -> Task:
    """Logistic regression from zero; many features stay sparse."""
    features = train.rows.shape[1]
    sparse = features > DENSE_FEATURES
    samples = (
        Samples(
            Rows(part.rows) if sparse else torch.from_numpy(part.rows.toarray()),
            torch.from_numpy(part.labels),
        )
        for part in (train, held_out)
    )
    return linear(name, *samples, partial(_zero, SparseLinear if sparse else nn.Linear, features))


def _zero(kind: type[nn.Linear], features: int) -> nn.Linear:
    layer = kind(features, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
