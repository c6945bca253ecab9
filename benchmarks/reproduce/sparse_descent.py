"""Gradient descent on sparse logistic losses: batches by an op, or threads without locks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch

from adadagrad_kernels import AdaptiveBatchSampler, ops
from benchmarks.reproduce.sparse_data import DataSet
from benchmarks.reproduce.targets import Targets

EVALUATIONS = 20
HOGWILD_THREADS = 2


@dataclass(frozen=True)
class Descent:
    """Stochastic gradient descent on a logistic loss.

    Attributes:
        mode: of ``ops.sparse_mean_step_``, or ``hogwild``: single samples by several threads.
        batch_size: samples of a step.
        samples: the budget.
        lr: the learning rate, constant.
        target: training loss.
    """

    mode: str
    batch_size: int
    samples: int
    lr: float
    target: float

    def run(self, data: tuple[DataSet, DataSet], seed: int) -> dict[str, Any]:
        """Train; seconds are those of the steps, the choice of the rows among them."""
        train, held_out = data
        weight = torch.zeros(train.rows.shape[1])
        step = _hogwild if self.mode == "hogwild" else self._step
        targets, seconds, drawn, steps = Targets({"train_loss": [self.target]}), 0.0, 0, 0
        sampler = AdaptiveBatchSampler(
            len(train.labels), self.batch_size, seed=seed, total_samples=self.samples
        )
        for indices in _parts(sampler, self.samples // EVALUATIONS):
            started = time.perf_counter()
            for rows in indices:
                step(train, np.asarray(rows), weight, self.lr)
            seconds += time.perf_counter() - started
            drawn += sum(map(len, indices))
            steps = drawn if self.mode == "hogwild" else steps + len(indices)
            loss = _loss(train, weight)
            counts = {"steps": steps, "samples": drawn, "seconds": seconds}
            targets.see({"train_loss": loss}, counts)
            if not np.isfinite(loss):
                break
        scores = held_out.rows @ weight.numpy()
        return {
            **counts,
            "diverged": not np.isfinite(loss),
            "final": {
                "train_loss": loss,
                "test_accuracy": float(((scores > 0) == (held_out.labels > 0)).mean()),
            },
            "targets": targets.reached,
        }

    def _step(self, data: DataSet, rows: np.ndarray, weight: torch.Tensor, lr: float) -> None:
        starts, columns, values = picked(data.rows, rows)
        samples = np.repeat(np.arange(len(rows)), np.diff(starts))
        scores = np.bincount(samples, values * weight.numpy()[columns], minlength=len(rows))
        slopes = _sigmoid(scores) - data.labels[rows]
        gradients = values * slopes[samples].astype(np.float32)
        parts = (torch.from_numpy(part) for part in (starts, columns, gradients))
        ops.sparse_mean_step_(weight, ops.CsrRows(*parts), lr=lr, mode=self.mode)


def picked(
    matrix: scipy.sparse.csr_matrix, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, columns and values of some rows; scipy's own takes as long as a whole step."""
    first = matrix.indptr[rows]
    lengths = matrix.indptr[rows + 1] - first
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(starts[-1]) + np.repeat(first - starts[:-1], lengths)
    return starts, matrix.indices[places].astype(np.int64), matrix.data[places]


def _hogwild(data: DataSet, rows: np.ndarray, weight: torch.Tensor, lr: float) -> None:
    """Threads that step on single samples of their own, without locks or order."""
    shared, indptr = weight.numpy(), data.rows.indptr

    def work(own: np.ndarray) -> None:
        for row in own:
            entries = slice(indptr[row], indptr[row + 1])
            columns, values = data.rows.indices[entries], data.rows.data[entries]
            slope = _sigmoid(values @ shared[columns]) - data.labels[row]
            shared[columns] -= lr * slope * values

    threads = [
        threading.Thread(target=work, args=(rows[first::HOGWILD_THREADS],))
        for first in range(HOGWILD_THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _parts(sampler: AdaptiveBatchSampler, samples: int) -> Iterator[list[list[int]]]:
    """The batches, some together: at least so many samples."""
    part: list[list[int]] = []
    for batch in sampler:
        part.append(batch)
        if sum(map(len, part)) >= samples:
            yield part
            part = []
    if part:
        yield part


def _sigmoid(scores: Any) -> Any:
    return 0.5 * (1.0 + np.tanh(0.5 * scores))


def _loss(data: DataSet, weight: torch.Tensor) -> float:
    scores = (data.rows @ weight.numpy()).astype(np.float64)
    return float((np.logaddexp(0.0, scores) - data.labels * scores).mean())
