"""What defines a run, and its optimizer."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import torch

from adadagrad_kernels import optim
from adadagrad_kernels.cli.errors import UsageError
from adadagrad_kernels.cli.evaluation import evaluated_samples
from adadagrad_kernels.cli.rules import (
    COORDINATE_TESTS,
    DEFAULT_CONSTANTS,
    METRICS,
    TEST_CONSTANTS,
    milestones,
)

DEFAULT_LR = {
    "adagrad": 0.008,
    "adagrad-norm": 1.0,
    "adagrad-norm-rows": 0.1,
    "sgd": 0.1,
    "adam": 0.001,
    "adamw": 0.001,
}
# Other defaults of small data sets. The paper's eta of 0.1, made for 6M samples of MNIST, asks
# for the whole of digits within two steps, and its learning rate is too small for the few steps of
# ten epochs.
DEFAULT_LR_OF = {"digits": {"adagrad": 0.08}}
DEFAULT_CONSTANTS_OF = {"digits": {"eta": 1.0}}
# Tests that ask for much at once still leave steps to learn in. The ratio of the diversity decides
# once for each pass over the data, too seldom for it.
DEFAULT_GROWTH_CAP_OF = {"digits": 1.1}
_WITHOUT_GROWTH_CAP = ("none", "diversity")
DEFAULT_BATCH = 8
DEFAULT_EPOCHS = 10
EVALUATIONS = 100


# Options that tests alone read, and those that schedules read too, with their defaults.
TEST_OPTIONS: dict[str, object] = {
    "test_interval": 1,
    "smoothing": 0.0,
    "hysteresis": 1.0,
    "cooldown": 0,
}
GROWTH_OPTIONS: dict[str, object] = {"growth_cap": None, "lr_rule": None}


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
    schedule: str | None = None
    test_interval: int = 1
    smoothing: float = 0.0
    growth_cap: float | None = None
    hysteresis: float = 1.0
    cooldown: int = 0
    lr_rule: str | float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    micro_batch: int | None = None
    memory: int | None = None
    seed: int = 0

    @property
    def rule(self) -> str:
        """What decides the size, in the words of the options."""
        return self.schedule or self.test

    def test_constants(self) -> dict[str, float]:
        """Returns the constants of the test."""
        return {name: getattr(self, name) for name in TEST_CONSTANTS[self.test]}

    def metrics(self) -> dict[str, float]:
        """Returns the constants of the test under the names that metrics have for them."""
        return {f"test/{name}": value for name, value in self.test_constants().items()}

    def options(self) -> dict[str, object]:
        """Returns the values under the names of the options that set them."""
        return {_option(name): value for name, value in asdict(self).items()}


def resolve(arguments: argparse.Namespace, training_samples: int, test_samples: int) -> RunConfig:
    """Fills in the defaults that depend on other options and on the data, and checks them.

    Raises:
        UsageError: Options contradict each other.
    """
    _check_rule(arguments)
    test = arguments.test or ("none" if arguments.schedule else "norm")
    if arguments.momentum and arguments.optimizer != "sgd":
        raise UsageError(f"--momentum is for --optimizer sgd, not {arguments.optimizer}")
    batch_size, max_batch = _sizes(arguments, test, training_samples)
    samples = arguments.samples or DEFAULT_EPOCHS * training_samples
    return RunConfig(
        data=arguments.data,
        model=arguments.model,
        optimizer=arguments.optimizer,
        lr=arguments.lr or default_lr(arguments.data, arguments.optimizer),
        test=test,
        batch_size=batch_size,
        max_batch=max_batch,
        samples=samples,
        evaluate_every=arguments.evaluate_every
        or _evaluate_every(samples, evaluated_samples(training_samples, test_samples)),
        log_every=arguments.log_every or max(1, samples // 1000),
        schedule=arguments.schedule,
        test_interval=arguments.test_interval,
        smoothing=arguments.smoothing,
        growth_cap=arguments.growth_cap or _growth_cap(arguments.data, test),
        hysteresis=arguments.hysteresis,
        cooldown=arguments.cooldown,
        lr_rule=arguments.lr_rule,
        momentum=arguments.momentum,
        weight_decay=arguments.weight_decay,
        micro_batch=arguments.micro_batch,
        memory=arguments.memory,
        seed=arguments.seed,
        **_constants(arguments, test),
    )


def default_lr(data: str, optimizer: str) -> float:
    """Returns the learning rate of an optimizer on a data set."""
    return DEFAULT_LR_OF.get(data, {}).get(optimizer, DEFAULT_LR[optimizer])


def _growth_cap(data: str, test: str) -> float | None:
    return None if test in _WITHOUT_GROWTH_CAP else DEFAULT_GROWTH_CAP_OF.get(data)


def _evaluate_every(samples: int, evaluated: int) -> int:
    """At most a hundred times, and never more samples evaluated than trained on.

    So a small budget is not spent on evaluations. A count and no share of the time, by which two
    runs of the same options would be evaluated at different samples.
    """
    return max(1, samples // EVALUATIONS, evaluated)


def inherited(arguments: argparse.Namespace, saved: Mapping[str, object]) -> argparse.Namespace:
    """Takes the budget, and what follows from it, over from a saved run where it is not given.

    Args:
        arguments: Of this call.
        saved: The run's values by their options; empty where there is none.
    """
    names = ("samples", "evaluate_every", "log_every")
    found = {name: saved.get(_option(name)) for name in names if getattr(arguments, name) is None}
    return argparse.Namespace(**{**vars(arguments), **found})


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_rule(arguments: argparse.Namespace) -> None:
    """Refuses options that what decides the size would never read."""
    test, schedule = arguments.test, arguments.schedule
    if schedule and test not in (None, "none"):
        raise UsageError(
            f"--schedule {schedule} decides the size without statistics: "
            f"leave out --test {test}, or the schedule"
        )
    unread: dict[str, object] = {}
    if schedule:
        unread = TEST_OPTIONS
    elif test == "none":
        unread = TEST_OPTIONS | GROWTH_OPTIONS
    for name, default in unread.items():
        if getattr(arguments, name) != default:
            rule = f"--schedule {schedule}" if schedule else "--test none"
            raise UsageError(f"{_option(name)} is of no use to {rule}")
    if arguments.smoothing and test in COORDINATE_TESTS:
        raise UsageError(
            f"--smoothing does not average the variance of every coordinate, which --test {test} "
            "reads: leave one of them out"
        )
    if test == "metric" and arguments.optimizer not in METRICS:
        raise UsageError(
            f"--test metric is for --optimizer {', '.join(METRICS)}, which have a metric of their "
            f"own; with {arguments.optimizer} it is --test norm"
        )
    if test == "cabs" and arguments.lr_rule is not None:
        raise UsageError(
            "--test cabs couples the batch with a constant learning rate: leave out --lr-rule"
        )


def _constants(arguments: argparse.Namespace, test: str) -> dict[str, float | None]:
    """The constants of the test, and None for those of others."""
    used = TEST_CONSTANTS[test]
    constants = {}
    own = DEFAULT_CONSTANTS_OF.get(arguments.data, {})
    for name, default in (DEFAULT_CONSTANTS | own).items():
        given = getattr(arguments, name)
        if given is not None and name not in used:
            users = ", ".join(test for test, names in TEST_CONSTANTS.items() if name in names)
            rule = f"--schedule {arguments.schedule}" if arguments.schedule else f"--test {test}"
            raise UsageError(f"--{name} is of no use to {rule}, only to --test {users}")
        constants[name] = (given or default) if name in used else None
    return constants


def _sizes(arguments: argparse.Namespace, test: str, training_samples: int) -> tuple[int, int]:
    """The first and the largest batch."""
    stated = milestones(arguments.schedule)
    batch_size = arguments.batch_size or (stated[0] if stated else DEFAULT_BATCH)
    if stated and batch_size != stated[0]:
        raise UsageError(
            f"--batch-size {batch_size} is not the first size of --schedule, {stated[0]}: "
            "leave it out"
        )
    fixed = test == "none" and arguments.schedule is None
    if fixed and arguments.max_batch not in (None, batch_size):
        raise UsageError(
            f"--test none keeps the batch at --batch-size {batch_size}: "
            f"--max-batch {arguments.max_batch} would not be reached"
        )
    if fixed:
        return batch_size, batch_size
    maximum = arguments.max_batch or (stated[-1] if stated else training_samples)
    if batch_size > maximum:
        source = "--max-batch" if arguments.max_batch else "the size of the training set,"
        raise UsageError(f"--batch-size {batch_size} is above {source} {maximum}")
    if test != "none" and batch_size < 2:
        raise UsageError(
            "--batch-size 1 has no variance to test, so the batch would never grow; "
            "begin with 2 or more, or choose --test none"
        )
    return batch_size, maximum


def build_optimizer(
    config: RunConfig, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Builds the optimizer: AdaGrad and AdaGrad-Norm run on this package's kernels."""
    lr, decay = config.lr, config.weight_decay
    match config.optimizer:
        case "adagrad":
            return optim.Adagrad(parameters, lr=lr, weight_decay=decay)
        case "adagrad-norm":
            return optim.AdagradNorm(parameters, lr=lr, weight_decay=decay)
        case "adagrad-norm-rows":
            return optim.AdagradNorm(parameters, lr=lr, weight_decay=decay, row_wise=True)
        case "sgd":
            return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=config.momentum)
        case "adam":
            return torch.optim.Adam(parameters, lr=lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
    raise UsageError(f"--optimizer {config.optimizer}: expected one of {', '.join(DEFAULT_LR)}")
