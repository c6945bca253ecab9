"""The training loop of the experiments: a model, data in memory, a plan, and what it reaches.

Statistics are those of ``layer_statistics``: exact, of the model in training, in the backward pass
that training needs anyway. Micro-batches keep the memory small whatever the batch.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from plan import Plan, controller_of, next_batch, optimizer_of
from targets import Targets
from torch import Tensor, nn

from adadagrad_kernels import AdaptiveBatchSampler, layer_statistics
from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.training.cost import PlainBackwardTimer

#: Points of a curve that are kept.
POINTS = 40


@dataclass(frozen=True)
class Task:
    """A model and what it is trained on.

    Attributes:
        inputs: of all samples; picked from by rows.
        targets: of all samples.
        build: makes the model, from torch's random state.
        loss: from outputs and targets to the sum of the samples' losses.
        evaluate: from a model to metrics by name.
    """

    inputs: Any
    targets: Tensor
    build: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]


class Training:
    """Trains a model as a plan says.

    Attributes:
        seconds: time of the steps, statistics and decisions among it; evaluations are not.
        statistics_seconds: the part of it that a run without tests would have saved, by timings of
            the same backward pass without statistics.
    """

    def __init__(self, task: Task, plan: Plan, seed: int, progress: Progress) -> None:
        self.task = task
        self.plan = plan
        torch.manual_seed(seed)
        self.model = task.build()
        self.optimizer = optimizer_of(plan, self.model.parameters())
        samples = len(task.targets)
        self.controller = controller_of(plan, samples, self.model, self.optimizer)
        self.sampler = AdaptiveBatchSampler(
            samples,
            partial(next_batch, plan, self.controller),
            seed=seed,
            total_samples=plan.samples,
        )
        criterion = self.controller.criterion
        self.recorder = layer_statistics(
            self.model,
            variance=criterion is not None and criterion.needs_variance,
            on_nonfinite="record",
        )
        self._measures = False
        # Times the backward pass of a model without measured layers, whatever this one has.
        self._timer = PlainBackwardTimer(copy.deepcopy(self.model), task.loss)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._progress = progress
        self._targets = Targets(plan.targets)
        self._gain = 1.0
        self.seconds = self.statistics_seconds = 0.0
        self.curve: list[dict[str, float]] = []

    def run(self) -> dict[str, Any]:
        """Train to the end of the budget, or until the loss is no number."""
        self._evaluate()
        controller, every = self.controller, self.plan.evaluate_every
        loss = 0.0
        try:
            started = time.perf_counter()
            for indices in self.sampler:
                rows = torch.tensor(indices)
                before = controller.batch_size
                loss, measured = self._step(rows)
                self._gain *= (controller.batch_size / before) ** self.plan.on_growth
                self.seconds += time.perf_counter() - started
                if measured is not None:
                    self._count_statistics(measured, rows)
                self._progress.advance(len(rows), controller.batch_size, loss)
                if not math.isfinite(loss):
                    break
                now = controller.samples_seen
                if now // every > (now - len(rows)) // every or now == self.plan.samples:
                    self._evaluate()
                started = time.perf_counter()
        finally:
            self._measure(False)
        if not math.isfinite(loss):
            self._evaluate()
        return {
            **self._counts(),
            "diverged": not math.isfinite(loss),
            "final": self.curve[-1],
            "targets": self._targets.reached,
            "curve": _thinned(self.curve),
        }

    def _step(self, rows: Tensor) -> tuple[float, float | None]:
        """The batch's loss, and for a step with a test the time of its gradient and the test."""
        controller = self.controller
        rate = self.plan.rate(controller.samples_seen) * self._gain
        for group, base in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * rate
        self.optimizer.zero_grad()
        wanted = controller.wants_test(len(rows))
        started = time.perf_counter()
        self._measure(wanted)
        loss, picking = self._backward(rows)
        if not wanted:
            self.optimizer.step()
            controller.step(len(rows))
            return loss, None
        # The tests in an optimizer's metric read its state as the gradient met it.
        statistics = self.recorder.statistics()
        assert statistics is not None
        controller.update(statistics)
        measured = time.perf_counter() - started - picking
        self.optimizer.step()
        return loss, measured

    def _backward(self, rows: Tensor) -> tuple[float, float]:
        """The batch's loss, and the time that picking its samples took."""
        total = picking = 0.0
        for part in rows.split(self.plan.micro_batch):
            started = time.perf_counter()
            inputs, targets = self.task.inputs[part], self.task.targets[part]
            picking += time.perf_counter() - started
            loss = self.task.loss(self.model(inputs), targets) / len(rows)
            loss.backward()
            total += loss.item()
        return total, picking

    def _measure(self, wanted: bool) -> None:
        """Have the layers measured, or leave them as they are."""
        if wanted != self._measures:
            if wanted:
                self.recorder.__enter__()
            else:
                self.recorder.__exit__(None, None, None)
            self._measures = wanted

    def _count_statistics(self, measured: float, rows: Tensor) -> None:
        first = rows[: self.plan.micro_batch]
        inputs, targets = self.task.inputs[first], self.task.targets[first]
        plain = self._timer.seconds(inputs, targets, len(first))
        self.statistics_seconds += measured - plain * len(rows) / len(first)

    def _counts(self) -> dict[str, float]:
        return {
            "steps": self.controller.steps,
            "samples": self.controller.samples_seen,
            "seconds": self.seconds,
            "statistics_seconds": self.statistics_seconds,
            "batch": self.controller.batch_size,
        }

    def _evaluate(self) -> None:
        measures = self._measures
        self._measure(False)
        metrics = self.task.evaluate(self.model)
        self._measure(measures)
        self._targets.see(metrics, self._counts())
        self.curve.append({**self._counts(), **metrics})


def _thinned(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """At most so many points, the first and the last among them, with five digits."""
    places = torch.linspace(0, len(curve) - 1, min(POINTS, len(curve))).round().int().tolist()
    return [
        {name: float(f"{value:.5g}") for name, value in curve[place].items()} for place in places
    ]
