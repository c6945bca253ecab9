"""Branches of a run's checkpoint, each at a batch size and a learning rate of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.errors import CheckpointError
from adadagrad_kernels.statistics import NoiseEstimate, layer_statistics
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.critical_batch import gain_of
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.evaluation import evaluate
from adadagrad_kernels.training.loop import Progress, Trainer
from adadagrad_kernels.training.options import MICRO_BATCH, OPTIONS

#: Of the training set, on which branches are evaluated.
EVALUATED = 2_000
#: Evaluations of a branch of the run's own size.
EVALUATIONS = 32


def config_of(options: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run from the options that its checkpoint has.

    Raises:
        CheckpointError: for options of another version.
    """
    flags = {option.name: option.flag for option in OPTIONS}
    known = {f.name: flags[f.name] for f in fields(RunConfig)}
    missing = [flag for name, flag in known.items() if flag not in options and name != "error_bars"]
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks the options {', '.join(missing)}: take one of a run of train "
            "that this version of adadagrad-kernels has written"
        )
    values: dict[str, Any] = {name: options.get(flag) for name, flag in known.items()}
    return RunConfig(**values)


def fixed(config: RunConfig, size: int, samples: int) -> RunConfig:
    """The run with a fixed batch, without a test, and with a budget of its own."""
    return replace(
        config, test="none", schedule=None, lr_rule=None, error_bars=None, smoothing=0.0,
        eta=None, theta=None, nu=None, scale=None, delta=None, epochs_between=None,
        filter_steps=None, test_interval=1, growth_cap=None, hysteresis=1.0, cooldown=0,
        batch_size=size, max_batch=size, samples=samples, evaluate_every=samples,
        log_every=samples,
    )  # fmt: skip


def tested(config: RunConfig, size: int, samples: int) -> RunConfig:
    """The run with its test, which suggestions hardly move from a size, and its own budget."""
    return replace(
        config, growth_cap=1.0001, hysteresis=1e12, cooldown=0, batch_size=size, max_batch=2 * size,
        samples=samples, evaluate_every=samples, log_every=samples,
    )  # fmt: skip


class Branches:
    """Goes on from a checkpoint in several ways.

    Args:
        config: of the run.
        state: of its trainer.
        data: the run's.
        samples: of a branch of the run's own size.
        most: times so many samples at most, of any branch.

    Attributes:
        size: the batch of the run at the checkpoint.
    """

    def __init__(
        self, config: RunConfig, state: Mapping[str, Any], data: Data, samples: int, most: float
    ) -> None:
        self.size: int = state["controller"]["batch_size"]
        self._config, self._state, self._data = config, state, data
        self._samples, self._most = samples, most
        self._evaluated = data.train.first(EVALUATED)

    def budget(self, size: int, *, whole: bool) -> int:
        """Samples of a branch at most, a multiple of its batch."""
        samples = self._samples if whole else int(self._most * self._samples)
        return max(1, samples // size) * size

    def losses(
        self, size: int, rule: str, seed: int, *, whole: bool, progress: Progress
    ) -> Iterator[tuple[int, float]]:
        """Yields steps and the loss on a part of the training set, at 0 steps first.

        Evaluations are evenly apart in samples.

        Args:
            size: of its batches.
            rule: of the learning rate, as ``gain_of`` has it.
            seed: of the order of its samples; the run's own order is another one.
            whole: take ``samples``, not ``most`` times as many.
            progress: is told of every step.
        """
        trainer = self._trainer(size, rule, seed, self.budget(size, whole=whole))
        every = max(1, round(self._samples / EVALUATIONS / size))
        yield 0, self._loss(trainer)
        for _ in trainer.run(lambda line: None, progress):
            steps = trainer.controller.steps
            if steps % every == 0:
                yield steps, self._loss(trainer)

    def noise(self) -> NoiseEstimate:
        """The noise of the gradient at the checkpoint, over ``EVALUATED`` samples."""
        trainer = self._trainer(self.size, "none", 0, self.size)
        inputs, targets = self._evaluated.inputs, self._evaluated.targets
        loss_of, model = self._data.objective.loss, trainer.model
        width = self._config.micro_batch or MICRO_BATCH
        parts = [slice(at, at + width) for at in range(0, len(targets), width)]
        torch.manual_seed(self._config.seed)
        with layer_statistics(model, inner_products=True) as source:
            for part in parts:
                total = loss_of(model(inputs[part]), targets[part], reduction="sum")
                (total / len(targets)).backward()  # type: ignore[no-untyped-call]
            record = source.statistics(
                partial(self._each, trainer, parts) if len(parts) > 1 else None
            )
        assert record is not None, "every step is measured"
        return record.noise_estimate

    def _each(self, trainer: Trainer, parts: list[slice]) -> Tensor:
        """The loss of every sample."""
        inputs, targets = self._evaluated.inputs, self._evaluated.targets
        loss_of = self._data.objective.loss
        return torch.cat(
            [loss_of(trainer.model(inputs[p]), targets[p], reduction="none") for p in parts]
        )

    def _loss(self, trainer: Trainer) -> float:
        return evaluate(trainer.model, self._evaluated, self._data.objective)["loss"]

    def _trainer(self, size: int, rule: str, seed: int, samples: int) -> Trainer:
        config = fixed(self._config, size, samples)
        config = replace(config, seed=self._config.seed + 1 + seed)
        trainer = Trainer(config, self._data)
        trainer.model.load_state_dict(self._state["model"])
        trainer.optimizer.load_state_dict(self._state["optimizer"])
        gain = self._state["lr_gain"]["gain"] * gain_of(rule, size / self.size)
        for group in trainer.optimizer.param_groups:
            group["lr"] *= gain
        return trainer
