"""How a model is trained: a plan, and the run of the training core that it stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from adadagrad_kernels.training.config import RunConfig


@dataclass(frozen=True)
class Plan:
    """One way to spend a budget of samples.

    Attributes:
        method: as the tables name it.
        optimizer: ``kind``, one of the core's optimizers or ``muon``, its ``lr`` and settings.
        batch_size: of the first step.
        samples: the budget.
        evaluate_every: samples between two evaluations.
        growth: empty for a fixed size; else ``rule``, one of the core's tests or ``spectral``, with
            its constants; or ``doubling`` with the samples in ``every``, or ``late`` with those in
            ``after``.
        max_batch: the cap of a size that grows.
        shape: of the learning rate over the budget, ``constant`` or ``cosine``.
        warmup: share of the budget in which the rate rises from zero.
        floor: the rate at the end of the cosine, as a share of its height.
        on_growth: what a batch that grows does to the rate: to the power of this exponent times
            as large; 0 leaves it, 1 is linear scaling.
        targets: values by metric.
        micro_batch: samples in a forward pass, at most.
        test_interval: steps between two tests.
    """

    method: str
    optimizer: dict[str, Any]
    batch_size: int
    samples: int
    evaluate_every: int
    growth: dict[str, Any] = field(default_factory=dict)
    max_batch: int | None = None
    shape: str = "constant"
    warmup: float = 0.0
    floor: float = 0.0
    on_growth: float = 0.0
    targets: dict[str, list[float]] = field(default_factory=dict)
    micro_batch: int = 512
    test_interval: int = 1

    def rate(self, samples_seen: int) -> float:
        """The learning rate before a step, over its height."""
        progress = samples_seen / self.samples
        if progress < self.warmup:
            return progress / self.warmup
        if self.shape == "constant":
            return 1.0
        share = (progress - self.warmup) / (1.0 - self.warmup)
        return self.floor + (1.0 - self.floor) * (1.0 + math.cos(math.pi * share)) / 2.0

    def config(self, task: str, seed: int) -> RunConfig:
        """The run, but for the learning rate's shape."""
        return RunConfig(
            data=task,
            model=task,
            batch_size=self.batch_size,
            max_batch=self.max_batch or self.batch_size,
            samples=self.samples,
            evaluate_every=self.evaluate_every,
            log_every=self.samples,
            test_interval=self.test_interval,
            lr_rule=2.0**self.on_growth,
            micro_batch=self.micro_batch,
            seed=seed,
            **_optimizer(**self.optimizer),
            **_growth(**self.growth),
        )


def _optimizer(
    kind: str, betas: tuple[float, float] | None = None, **settings: float
) -> dict[str, Any]:
    if kind == "muon":
        kind = "adamw"  # as far as the core knows; MuonTrainer makes it Muon
    if betas is not None:
        first, settings["beta2"] = betas
        assert first == 0.9, "the core's Adam has no other"
    return {"optimizer": kind, **settings}


def _growth(rule: str = "none", **constants: Any) -> dict[str, Any]:
    if rule == "doubling":
        return {"test": "none", "schedule": f"step:{constants['every']}"}
    if rule == "late":
        return {"test": "none", "schedule": f"late:{constants['after']}"}
    if rule == "spectral":
        rule = "norm"  # its constant; MuonTrainer makes it the spectral one
    if rule == "metric" and constants.pop("metric") == "sign":
        rule = "sign"
    return {"test": rule, **constants}
