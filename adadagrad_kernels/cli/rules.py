"""What decides the batch size: the tests that `--test` names, and the schedules of `--schedule`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer

from adadagrad_kernels import criteria
from adadagrad_kernels.batching import (
    BatchSizeSchedule,
    CosineSchedule,
    LinearSchedule,
    MilestoneSchedule,
    PlateauSchedule,
    StepSchedule,
    megatron_schedule,
)
from adadagrad_kernels.cli import quantities
from adadagrad_kernels.cli.errors import UsageError

if TYPE_CHECKING:
    from adadagrad_kernels.cli.config import RunConfig

# The constants of each test that --test names, by their options.
TEST_CONSTANTS: dict[str, tuple[str, ...]] = {
    "norm": ("eta",),
    "inner-product": ("theta",),
    "augmented": ("theta", "nu"),
    "coordinate": ("eta",),
    "metric": ("eta",),
    "sign": ("eta",),
    "noise-scale": ("scale",),
    "cabs": ("scale",),
    "diversity": ("delta",),
    "none": (),
}
DEFAULT_CONSTANTS = {"eta": 0.1, "theta": 0.5, "nu": 1.0, "scale": 1.0, "delta": 0.1}
# What findings call the knobs: the options that set them. The others have the names of arguments.
KNOBS = {
    **{name: f"--{name}" for name in DEFAULT_CONSTANTS},
    "c": "--scale",
    "lr": "--lr",
    "batch_size": "--batch-size",
    "max_batch_size": "--max-batch",
    "test_interval": "--test-interval",
    "hysteresis": "--hysteresis",
    "cooldown": "--cooldown",
    "growth_cap": "--growth-cap",
}
# Read the variance of every coordinate, which no running average has.
COORDINATE_TESTS = ("coordinate", "metric", "sign")
# The metric that the steps of an optimizer are the steepest descent in.
METRICS = {"adagrad": "adagrad", "adam": "adam", "adamw": "adam"}


def build_rule(
    config: RunConfig, training_samples: int, model: nn.Module, optimizer: Optimizer
) -> criteria.BatchSizeCriterion | BatchSizeSchedule | None:
    """Builds the test or the schedule of a run, or None for a fixed batch."""
    if config.schedule is not None:
        return build_schedule(config.schedule, config.batch_size, config.max_batch)
    constant = config.test_constants()
    match config.test:
        case "norm":
            return criteria.NormTest(constant["eta"])
        case "inner-product":
            return criteria.InnerProductTest(constant["theta"])
        case "augmented":
            return criteria.AugmentedInnerProductTest(constant["theta"], constant["nu"])
        case "coordinate":
            return criteria.CoordinateNormTest(constant["eta"])
        case "metric":
            metric = METRICS[config.optimizer]
            return criteria.MetricNormTest(
                constant["eta"], metric, optimizer, model.named_parameters()
            )
        case "sign":
            return criteria.MetricNormTest(constant["eta"], "sign")
        case "noise-scale":
            return criteria.GradientNoiseScale(constant["scale"])
        case "cabs":
            return criteria.CABS(config.lr, c=constant["scale"])
        case "diversity":
            return criteria.GradientDiversity(constant["delta"], training_samples)
        case "none":
            return None
    raise UsageError(f"--test {config.test}: expected one of {', '.join(TEST_CONSTANTS)}")


def schedule(text: str) -> str:
    """Reads a schedule as `--schedule` has it; returns the text as it is."""
    try:
        build_schedule(text, 1, 2**53)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(
            "expected step:N, linear:N or cosine:N with N samples, plateau:N with N evaluations, "
            f'or milestones such as "0:8 60K:64", not {text!r} ({error})'
        ) from None
    return text


def build_schedule(text: str, smallest: int, largest: int) -> BatchSizeSchedule:
    """Builds a schedule.

    Args:
        text: `step:N`, `linear:N`, `cosine:N`, `plateau:N`, or Megatron's milestones.
        smallest: The size at first, where the text does not say it.
        largest: The size at the end, likewise.

    Raises:
        ValueError: The text is no schedule.
    """
    shape, _, number = text.partition(":")
    match shape:
        case "step":
            return StepSchedule(smallest, step_size=quantities.count(number))
        case "linear":
            return LinearSchedule(smallest, largest, quantities.count(number))
        case "cosine":
            return CosineSchedule(smallest, largest, quantities.count(number))
        case "plateau":
            return PlateauSchedule(smallest, patience=quantities.count(number) - 1)
    return megatron_schedule(text)


def milestones(text: str | None) -> list[int]:
    """Returns the sizes that a schedule states itself, in their order; none of the shapes."""
    built = None if text is None else build_schedule(text, 1, 2**53)
    return list(built.milestones.values()) if isinstance(built, MilestoneSchedule) else []


def learning_rate_rule(text: str) -> str | float:
    """Reads what a batch that grows does to the learning rate: a name, or a factor."""
    if text in ("linear", "sqrt"):
        return text
    try:
        return quantities.positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected linear, sqrt, or the factor for a doubled batch, such as 0.75, not {text!r}"
        ) from None
