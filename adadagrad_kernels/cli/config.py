"""What defines a run, and the objects it names."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch

from adadagrad_kernels import criteria, optim
from adadagrad_kernels.cli.errors import UsageError

# The constant of each test that --test names, by its option.
TEST_CONSTANTS: dict[str, tuple[str, ...]] = {
    "norm": ("eta",),
    "inner-product": ("theta",),
    "augmented": ("theta", "nu"),
    "coordinate": ("eta",),
    "none": (),
}
DEFAULT_CONSTANTS = {"eta": 0.1, "theta": 0.5, "nu": 1.0}
DEFAULT_LR = {
    "adagrad": 0.008,
    "adagrad-norm": 1.0,
    "adagrad-norm-rows": 0.1,
    "sgd": 0.1,
    "adam": 0.001,
    "adamw": 0.001,
}
DEFAULT_EPOCHS = 10


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
    test_interval: int = 1
    momentum: float = 0.0
    weight_decay: float = 0.0
    micro_batch: int | None = None
    memory: int | None = None
    seed: int = 0

    def constants(self) -> dict[str, float]:
        """Returns the constants of the test under the names that metrics have for them."""
        return {f"test/{name}": getattr(self, name) for name in TEST_CONSTANTS[self.test]}

    def options(self) -> dict[str, object]:
        """Returns the values under the names of the options that set them."""
        return {f"--{name.replace('_', '-')}": value for name, value in asdict(self).items()}


def resolve(arguments: argparse.Namespace, training_samples: int) -> RunConfig:
    """Fills in the defaults that depend on other options and on the data, and checks them.

    Raises:
        UsageError: Options contradict each other.
    """
    used = TEST_CONSTANTS[arguments.test]
    constants = {}
    for name, default in DEFAULT_CONSTANTS.items():
        given = getattr(arguments, name)
        if given is not None and name not in used:
            users = ", ".join(test for test, names in TEST_CONSTANTS.items() if name in names)
            raise UsageError(f"--{name} is of no use to --test {arguments.test}, only to {users}")
        constants[name] = (given or default) if name in used else None
    if arguments.momentum and arguments.optimizer != "sgd":
        raise UsageError(f"--momentum is for --optimizer sgd, not {arguments.optimizer}")
    fixed = arguments.test == "none"
    if fixed and arguments.max_batch not in (None, arguments.batch_size):
        raise UsageError(
            f"--test none keeps the batch at --batch-size {arguments.batch_size}: "
            f"--max-batch {arguments.max_batch} would not be reached"
        )
    maximum = arguments.batch_size if fixed else (arguments.max_batch or training_samples)
    if arguments.batch_size > maximum:
        source = "--max-batch" if arguments.max_batch else "the size of the training set,"
        raise UsageError(f"--batch-size {arguments.batch_size} is above {source} {maximum}")
    if not fixed and arguments.batch_size < 2:
        raise UsageError(
            "--batch-size 1 has no variance to test, so the batch would never grow; "
            "begin with 2 or more, or choose --test none"
        )
    samples = arguments.samples or DEFAULT_EPOCHS * training_samples
    return RunConfig(
        data=arguments.data,
        model=arguments.model,
        optimizer=arguments.optimizer,
        lr=arguments.lr or DEFAULT_LR[arguments.optimizer],
        test=arguments.test,
        batch_size=arguments.batch_size,
        max_batch=maximum,
        samples=samples,
        evaluate_every=arguments.evaluate_every or max(1, samples // 100),
        log_every=arguments.log_every or max(1, samples // 1000),
        test_interval=arguments.test_interval,
        momentum=arguments.momentum,
        weight_decay=arguments.weight_decay,
        micro_batch=arguments.micro_batch,
        memory=arguments.memory,
        seed=arguments.seed,
        **constants,
    )


def build_criterion(config: RunConfig) -> criteria.BatchSizeCriterion | None:
    """Builds the batch-size test, or None for a fixed batch."""
    kinds = {
        "norm": criteria.NormTest,
        "inner-product": criteria.InnerProductTest,
        "augmented": criteria.AugmentedInnerProductTest,
        "coordinate": criteria.CoordinateNormTest,
    }
    if config.test == "none":
        return None
    constants = {name: getattr(config, name) for name in TEST_CONSTANTS[config.test]}
    criterion: criteria.BatchSizeCriterion = kinds[config.test](**constants)
    return criterion


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
