"""What defines a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from adadagrad_kernels.training.catalogue import (
    CONSTANTS,
    OPTIMIZERS,
    SETTINGS,
    TESTS,
    optimizers_with_metric,
    takers_of,
    tests_with,
)
from adadagrad_kernels.training.data_sets import data_set
from adadagrad_kernels.training.errors import UsageError
from adadagrad_kernels.training.evaluation import evaluated_samples
from adadagrad_kernels.training.options import BATCH, EPOCHS, OPTIONS
from adadagrad_kernels.training.readers import build_schedule, milestones

_EVALUATIONS, _LINES = 100, 1000
_FLAGS = {option.name: option.flag for option in OPTIONS}


@dataclass(frozen=True)
class RunConfig:
    """Everything a run's parameters and metrics depend on, apart from the data's content.

    Two runs with equal configurations on the same data and machine end bit for bit alike.
    """

    data: str
    model: str
    optimizer: str
    lr: float
    test: str
    batch_size: int
    max_batch: int
    samples: int
    evaluate_every: int
    log_every: int
    eta: float | None = None
    theta: float | None = None
    nu: float | None = None
    scale: float | None = None
    delta: float | None = None
    epochs_between: int | None = None
    filter_steps: int | None = None
    schedule: str | None = None
    test_interval: int = 1
    smoothing: float = 0.0
    growth_cap: float | None = None
    hysteresis: float = 1.0
    cooldown: int = 0
    error_bars: float | None = None
    lr_rule: str | float | None = None
    momentum: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.0
    micro_batch: int | None = None
    memory: int | None = None
    seed: int = 0

    @property
    def policy(self) -> str:
        """What decides the size, in the words of the options."""
        return self.schedule or self.test

    def test_constants(self) -> dict[str, float]:
        """Returns the constants of the test."""
        return {name: getattr(self, name) for name in TESTS[self.test].constants}

    def settings(self) -> dict[str, float]:
        """Returns the settings of the optimizer."""
        return {name: getattr(self, name) for name in OPTIMIZERS[self.optimizer].takes}

    def metrics(self) -> dict[str, float]:
        """Returns the constants of the test under the names that metrics have for them."""
        return {f"test/{name}": value for name, value in self.test_constants().items()}

    def options(self) -> dict[str, object]:
        """Returns the values under the names of the options that set them."""
        return {_FLAGS[name]: value for name, value in asdict(self).items()}


def resolve(arguments: argparse.Namespace, training_samples: int, test_samples: int) -> RunConfig:
    """Fills in the defaults that depend on other options and on the data, and checks them.

    Raises:
        UsageError: Options contradict each other.
    """
    test = arguments.test or ("none" if arguments.schedule else "norm")
    _require_readable_options(arguments, test)
    kind, data = OPTIMIZERS[arguments.optimizer], data_set(arguments.data)
    for name, default in SETTINGS.items():
        if getattr(arguments, name) != default and name not in kind.takes:
            raise UsageError(
                f"{_FLAGS[name]} is for --optimizer {', '.join(takers_of(name))}, "
                f"not {arguments.optimizer}: leave it out"
            )
    batch_size, max_batch = _sizes(arguments, test, training_samples)
    samples = arguments.samples or EPOCHS * training_samples
    _require_schedule(arguments.schedule, batch_size, max_batch, samples)
    least = evaluated_samples(training_samples, test_samples)
    growth_cap = data.growth_cap if TESTS[test].decides_every_step else None
    given = {option.name: getattr(arguments, option.name) for option in OPTIONS if option.defines}
    follows = {
        "lr": arguments.lr or data.lr.get(arguments.optimizer, kind.lr),
        "test": test,
        "batch_size": batch_size,
        "max_batch": max_batch,
        "samples": samples,
        # A count and no share of the time, by which two runs of the same options would be
        # evaluated at different samples; and a small budget is not spent on evaluations.
        "evaluate_every": arguments.evaluate_every or max(1, samples // _EVALUATIONS, least),
        "log_every": arguments.log_every or max(1, samples // _LINES),
        "growth_cap": arguments.growth_cap or growth_cap,
        **_constants(arguments, test, data.constants),
    }
    return RunConfig(**(given | follows))


def inherited(arguments: argparse.Namespace, saved: Mapping[str, object]) -> argparse.Namespace:
    """Takes the budget, and what follows from it, over from a saved run where it is not given.

    Args:
        arguments: Of this call.
        saved: The run's values by their options; empty where there is none.
    """
    names = ("samples", "evaluate_every", "log_every")
    found = {name: saved.get(_FLAGS[name]) for name in names if getattr(arguments, name) is None}
    return argparse.Namespace(**{**vars(arguments), **found})


def _require_readable_options(arguments: argparse.Namespace, test: str) -> None:
    """Refuses options that what decides the size would never read."""
    schedule = arguments.schedule
    if schedule and test != "none":
        raise UsageError(
            f"--schedule {schedule} decides the size without statistics: "
            f"leave out --test {test}, or the schedule"
        )
    decides = "schedule" if schedule else "none" if test == "none" else "test"
    for option in OPTIONS:
        if decides not in option.read_by and getattr(arguments, option.name) != option.default:
            policy = f"--schedule {schedule}" if schedule else "--test none"
            raise UsageError(f"{option.flag} is of no use to {policy}: leave it out")
    if arguments.smoothing and TESTS[test].reads_coordinates:
        raise UsageError(
            f"--smoothing does not average the variance of every coordinate, which --test {test} "
            "reads: leave one of them out"
        )
    if TESTS[test].reads_metric and OPTIMIZERS[arguments.optimizer].metric is None:
        raise UsageError(
            f"--test {test} is for --optimizer {', '.join(optimizers_with_metric())}, which have a "
            f"metric of their own; with {arguments.optimizer} it is --test norm"
        )
    if TESTS[test].coupled and arguments.lr_rule is not None:
        raise UsageError(
            f"--test {test} couples the batch with a constant learning rate: leave out --lr-rule"
        )


def _constants(
    arguments: argparse.Namespace, test: str, own: Mapping[str, float]
) -> dict[str, float | None]:
    """The constants of the test, and None for those of others."""
    used = TESTS[test].constants
    constants: dict[str, float | None] = {}
    for name, default in {**CONSTANTS, **own}.items():
        given = getattr(arguments, name)
        if given is not None and name not in used:
            policy = f"--schedule {arguments.schedule}" if arguments.schedule else f"--test {test}"
            readers = ", ".join(tests_with(name))
            raise UsageError(f"{_FLAGS[name]} is of no use to {policy}, only to --test {readers}")
        constants[name] = (given or default) if name in used else None
    return constants


def _sizes(arguments: argparse.Namespace, test: str, training_samples: int) -> tuple[int, int]:
    """The first and the largest batch."""
    stated = milestones(arguments.schedule)
    batch_size = arguments.batch_size or (stated[0] if stated else BATCH)
    if stated and batch_size != stated[0]:
        raise UsageError(
            f"--batch-size {batch_size} is not the first size of --schedule, {stated[0]}: "
            "leave it out"
        )
    fixed = test == "none" and arguments.schedule is None
    if fixed and arguments.max_batch not in (None, batch_size):
        raise UsageError(
            f"--test none keeps the batch at --batch-size {batch_size}: "
            f"--max-batch {arguments.max_batch} would not be reached, leave it out"
        )
    if fixed:
        return batch_size, batch_size
    maximum = arguments.max_batch or (stated[-1] if stated else training_samples)
    if batch_size > maximum:
        source = "--max-batch" if arguments.max_batch else "the size of the training set,"
        raise UsageError(f"--batch-size {batch_size} is above {source} {maximum}: lower it")
    if test != "none" and batch_size < 2:
        raise UsageError(
            "--batch-size 1 has no variance to test, so the batch would never grow; "
            "begin with 2 or more, or choose --test none"
        )
    return batch_size, maximum


def _require_schedule(text: str | None, batch_size: int, max_batch: int, samples: int) -> None:
    """Refuses a schedule that does not go with these sizes, or stops before the budget is spent."""
    if text is None:
        return
    try:
        end = build_schedule(text, batch_size, max_batch).rate_ends
    except ValueError as error:
        raise UsageError(
            f"--schedule {text} from --batch-size {batch_size} to --max-batch {max_batch}: {error}"
        ) from error
    if end is not None and samples > end:
        raise UsageError(
            f"--schedule {text} has a learning rate of 0 from {end:,} samples on, and --samples is "
            f"{samples:,}: make them the same"
        )
