"""The training loop: gradient, test, step, count."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from adadagrad_kernels.batching import (
    AdaptiveBatchSampler,
    BatchController,
    BatchSizeLR,
    BatchSizeSchedule,
    FailureSignatures,
    MicroBatchPlanner,
    PowerRule,
    SamplesLR,
    per_doubling,
)
from adadagrad_kernels.criteria import BatchSizeCriterion
from adadagrad_kernels.statistics import GradientStatistics, layer_statistics
from adadagrad_kernels.training.build import build_model, build_policy, knobs
from adadagrad_kernels.training.catalogue import build_optimizer
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.cost import PlainBackwardTimer
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.evaluation import evaluation_metrics
from adadagrad_kernels.training.options import MICRO_BATCH


class Progress(Protocol):
    """What is told of every step."""

    def advance(self, samples: int, batch_size: int, loss: float) -> None:
        """So many samples more, the next batch's size and the last one's loss."""


class Trainer:
    """Trains a model for a budget of samples.

    Everything random comes from `config.seed`, everything that decides is a function of samples
    and statistics, and `state_dict` holds all of it: a resumed run ends bit for bit like one that
    was never stopped.

    Args:
        config: The run.
        data: Its training and test set, and what is minimized.
        build: Makes the model, by torch's random numbers; by default `config.model` names it.

    Attributes:
        seconds: Time spent in training steps; `train --help` says what is left out.
        statistics_seconds: The part of it that a run without tests would have saved.
        wall_seconds: Time since the start of the run, all included but what a stop had lost.
    """

    def __init__(
        self, config: RunConfig, data: Data, build: Callable[[], nn.Module] | None = None
    ) -> None:
        self.config = config
        self.data = data
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, data) if build is None else build()
        self.optimizer = self._optimizer()
        policy = self._policy()
        # The sizes of a schedule are known; those of tests are what is to be seen.
        self.schedule = policy if isinstance(policy, BatchSizeSchedule) else None
        self.controller = BatchController(
            policy,
            batch_size=config.batch_size,
            max_batch_size=config.max_batch,
            test_interval=config.test_interval,
            growth_cap=config.growth_cap,
            hysteresis=config.hysteresis,
            cooldown=config.cooldown,
            smoothing=config.smoothing,
            allow_shrink=self.schedule is not None and self.schedule.may_shrink,
            signatures=FailureSignatures(words=knobs()),
            error_bars=config.error_bars,
        )
        self.lr_gain = BatchSizeLR(
            self.optimizer, _lr_rule(config.lr_rule), batch_size=config.batch_size
        )
        self.lr_schedule = None
        if self.schedule is not None and self.schedule.rate_ends is not None:
            by_samples = LambdaLR(self.optimizer, self.schedule.rate)
            self.lr_schedule = SamplesLR(by_samples, samples_per_step=1)
        self.sampler = AdaptiveBatchSampler(
            len(data.train), self._batch_size, seed=config.seed, total_samples=config.samples
        )
        self.source = layer_statistics(
            self.model,
            inner_products=(policy is not None and policy.needs_inner_products)
            or config.error_bars is not None,
            variance=policy is not None and policy.needs_variance,
            when=self.controller.wants_test,
            on_nonfinite="record",
        )
        # An average of steps has no interval of its own, and needs none of these.
        self._turned = (
            config.error_bars is not None and hasattr(policy, "interval") and not config.smoothing
        )
        self.planner = MicroBatchPlanner(
            max_samples=config.micro_batch or MICRO_BATCH, max_bytes=config.memory
        )
        # On a copy, which nobody measures; its parameters' values do not matter.
        self.timer = PlainBackwardTimer(copy.deepcopy(self.model), data.objective.loss)
        self.seconds = 0.0
        self.statistics_seconds = 0.0
        self._wall_before = 0.0
        self._wall_started = time.perf_counter()

    @property
    def wall_seconds(self) -> float:  # noqa: D102 - among the attributes
        return self._wall_before + time.perf_counter() - self._wall_started

    def run(self, record: Callable[[dict[str, Any]], None], progress: Progress) -> Iterator[float]:
        """Trains to the end of the budget; after each step the caller may save or stop.

        What a step came to, the loss of its batch before it, is yielded.

        Args:
            record: Gets the lines for `metrics.jsonl`: every `log_every` and `evaluate_every`
                samples, and whenever a test changes the batch size.
            progress: Is told of every step.
        """
        with self.source:
            yield from self._run(record, progress)

    def _run(self, record: Callable[[dict[str, Any]], None], progress: Progress) -> Iterator[float]:
        config = self.config
        schedule = self.schedule
        for samples, loss in self._steps():
            now, before = self.controller.samples_seen, self.controller.samples_seen - samples
            evaluate = now // config.evaluate_every > before // config.evaluate_every
            log = now // config.log_every > before // config.log_every
            if evaluate or log or (samples != self.controller.batch_size and not schedule):
                found = self.evaluate() if evaluate else {}
                record({**self.counts(), "batch/used": samples, "loss": loss, **found})
                if evaluate and schedule is not None:
                    schedule.observe(found["test_loss"])
            progress.advance(samples, self.controller.batch_size, loss)
            yield loss

    def counts(self) -> dict[str, Any]:
        """Returns what was counted and measured so far: samples, steps, latest test, times."""
        controller = self.controller
        rate = 1.0 if self.schedule is None else self.schedule.rate(controller.samples_seen)
        return {
            **controller.metrics(),
            **self.config.metrics(),
            "samples_seen": controller.samples_seen,
            "steps": controller.steps,
            "nonfinite_steps": controller.nonfinite_steps,
            "batch/global": controller.batch_size,
            "lr/gain": self.lr_gain.gain * rate,
            "seconds": self.seconds,
            "statistics_seconds": self.statistics_seconds,
            # Differences of timings: their noise may put a share near 0 a little below it.
            "statistics_share": self.statistics_seconds / self.seconds if self.seconds else 0.0,
        }

    def evaluate(self) -> dict[str, float]:
        """Returns the losses and the accuracy now, as `record` gets them along the way."""
        return evaluation_metrics(self.model, self.data)

    def summary(self) -> dict[str, Any]:
        """Returns the counts, the evaluation on the whole training and test set, the wall time.

        Of a training set that the budget does not reach the end of, the first part is evaluated.
        """
        whole = self.config.samples >= len(self.data.train)
        found = evaluation_metrics(self.model, self.data, whole=whole)
        return {**self.counts(), **found, "wall_seconds": self.wall_seconds}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything the rest of the run depends on, apart from its configuration."""
        lr_schedule = None if self.lr_schedule is None else self.lr_schedule.state_dict()
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "controller": self.controller.state_dict(),
            "lr_gain": self.lr_gain.state_dict(),
            "lr_schedule": lr_schedule,
            "sampler": self.sampler.state_dict(),
            "planner": self.planner.state_dict(),
            "random_state": torch.get_rng_state(),
            "seconds": self.seconds,
            "statistics_seconds": self.statistics_seconds,
            "wall_seconds": self.wall_seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict` of a run with the same configuration and data."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.controller.load_state_dict(state["controller"])
        self.lr_gain.load_state_dict(state["lr_gain"])
        if self.lr_schedule is not None:
            self.lr_schedule.load_state_dict(state["lr_schedule"])
        self.sampler.load_state_dict(state["sampler"])
        self.planner.load_state_dict(state["planner"])
        torch.set_rng_state(state["random_state"])
        self.seconds = state["seconds"]
        self.statistics_seconds = state["statistics_seconds"]
        self._wall_before = state["wall_seconds"]
        self._wall_started = time.perf_counter()

    def _optimizer(self) -> Optimizer:
        config = self.config
        return build_optimizer(
            config.optimizer, self.model.parameters(), lr=config.lr, **config.settings()
        )

    def _policy(self) -> BatchSizeCriterion | BatchSizeSchedule | None:
        return build_policy(self.config, len(self.data.train), self.model, self.optimizer)

    def _batch_size(self) -> int:
        """Returns the controller's size, but lets the last two batches share what is left.

        Otherwise the last step, often of a few samples only, would undo what was reached.
        """
        size = self.controller.batch_size
        left = self.config.samples - self.controller.samples_seen
        return (left + 1) // 2 if size < left < 2 * size else size

    def _steps(self) -> Iterator[tuple[int, float]]:
        """Yields the samples and the loss of each step, and keeps the times."""
        started = time.perf_counter()
        for indices in self.sampler:
            inputs, targets = self.data.train.select(torch.tensor(indices))
            loss, measured = self._step(inputs, targets)
            self.seconds += time.perf_counter() - started
            if measured is not None:
                micro_batch = self.planner.micro_batch_size or len(targets)
                plain = self.timer.seconds(inputs, targets, micro_batch)
                self.statistics_seconds += measured - plain
            yield len(targets), loss
            started = time.perf_counter()

    def _step(self, inputs: Tensor, targets: Tensor) -> tuple[float, float | None]:
        """Returns the batch's loss before the step, and for a step with a test its time.

        That time is the gradient's, with statistics, and the test's.
        """
        self.optimizer.zero_grad()
        started = time.perf_counter()
        loss, statistics = self._backward(inputs, targets)
        # Before the step: a test in the optimizer's metric reads it as this gradient met it.
        if statistics is None:
            size, measured = self.controller.step(len(targets), loss=loss), None
        else:
            size = self.controller.update(replace(statistics, loss=loss))
            measured = time.perf_counter() - started
        self.optimizer.step()
        self.lr_gain.update(size)
        if self.lr_schedule is not None:
            self.lr_schedule.step(len(targets))
        return loss, measured

    def _backward(self, inputs: Tensor, targets: Tensor) -> tuple[float, GradientStatistics | None]:
        """Returns the loss, and the statistics where the controller wants them."""
        loss_of = self.data.objective.loss

        def step(parts: list[slice]) -> tuple[float, GradientStatistics | None]:
            self.source.reset()
            total = 0.0
            for part in parts:
                loss = loss_of(self.model(inputs[part]), targets[part], reduction="sum")
                loss = loss / len(targets)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
            # Inner products refer to the mean of all micro-batches, and need another look at them.
            again = (len(parts) > 1 and self.source.inner_products) or self._turned
            return total, self.source.statistics(
                partial(losses, parts) if again else None, covariance_products=self._turned
            )

        def losses(parts: list[slice]) -> Tensor:
            return torch.cat(
                [
                    loss_of(self.model(inputs[part]), targets[part], reduction="none")
                    for part in parts
                ]
            )

        return self.planner.run(step, len(targets), self.model)


def _lr_rule(name: str | float | None) -> str | PowerRule:
    """The rule of `--lr-rule`: a factor is that of a doubled batch."""
    return name if isinstance(name, str) else per_doubling(1.0 if name is None else name)
