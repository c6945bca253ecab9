"""What a run can be made of, by name: tests, schedules, optimizers.

A row has all that is said of its name: how it is built, its constants, what it needs and its help.
``--help``, the checks of options and the tables of docs/reference/cli.md are made from these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer

from adadagrad_kernels import criteria, optim
from adadagrad_kernels.batching import (
    BatchSizeSchedule,
    CosineSchedule,
    LateSwitchSchedule,
    LinearSchedule,
    OneCycleSchedule,
    PlateauSchedule,
    StepSchedule,
    WarmupStableDecay,
)

#: The default of each constant of a test; those that count are whole numbers.
CONSTANTS: dict[str, float] = {
    "eta": 0.1, "theta": 0.5, "nu": 1.0, "scale": 1.0, "delta": 0.1, "epochs_between": 1,
    "filter_steps": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What a test is built for.

    Attributes:
        constants: of the test, by name.
        model: in training.
        optimizer: with its parameters.
        lr: the learning rate.
        training_samples: in the training set.
        metric: that the optimizer's steps are the steepest descent in, or None.
    """

    constants: Mapping[str, float]
    model: nn.Module
    optimizer: Optimizer
    lr: float
    training_samples: int
    metric: str | None


@dataclass(frozen=True)
class BatchTest:
    """A batch-size test.

    Attributes:
        help: the condition for a batch of b samples with gradients g_i and mean g.
        build: the criterion of a task; None for a fixed size.
        constants: the names of those that it has.
        reads_coordinates: whether it reads the variance of every coordinate, which no running
            average has.
        reads_metric: whether the optimizer must have a metric.
        coupled: whether it sets the batch by the learning rate, which must be constant then.
        decides_every_step: whether a bound on each growth makes sense.
    """

    help: str
    build: Callable[[Task], criteria.BatchSizeCriterion | None]
    constants: tuple[str, ...] = ()
    reads_coordinates: bool = False
    reads_metric: bool = False
    coupled: bool = False
    decides_every_step: bool = True


TESTS = {
    "norm": BatchTest(
        "V / b <= eta^2 |g|^2, where V is the variance of g_i summed over its coordinates:\n"
        "the batch gradient lies within about eta of the true one, relative to its length.\n"
        "While noise dominates, one test multiplies the batch by about 1/eta^2 at most.",
        lambda task: criteria.NormTest(task.constants["eta"]),
        ("eta",),
    ),
    "inner-product": BatchTest(
        "Var<g_i, g> / b <= theta^2 |g|^4: only noise along g counts, so batches stay\n"
        "smaller. theta: relative error allowed of the descent along g.",
        lambda task: criteria.InnerProductTest(task.constants["theta"]),
        ("theta",),
    ),
    "augmented": BatchTest(
        "inner-product, and the noise across g: V_orth / b <= nu^2 |g|^2.\n"
        "nu: tangent of the angle allowed between g and the true gradient.",
        lambda task: criteria.AugmentedInnerProductTest(
            task.constants["theta"], task.constants["nu"]
        ),
        ("theta", "nu"),
    ),
    "adabatchgrad": BatchTest(
        "augmented, of which the smallest suggestion of filter-steps in a row counts\n"
        "(AdaBatchGrad, Ostroukhov et al. 2024, with --optimizer delayed-adagrad-norm;\n"
        "the defaults of a port of their code are theta 0.9 and nu 5.84).",
        lambda task: criteria.SmallestOf(
            criteria.AugmentedInnerProductTest(task.constants["theta"], task.constants["nu"]),
            steps=int(task.constants["filter_steps"]),
        ),
        ("theta", "nu", "filter_steps"),
    ),
    "coordinate": BatchTest(
        "the norm test for each coordinate alone; the strictest decides.\n"
        "Grows fastest, as coordinates with a tiny gradient ask for huge batches.",
        lambda task: criteria.CoordinateNormTest(task.constants["eta"]),
        ("eta",),
        reads_coordinates=True,
    ),
    "metric": BatchTest(
        "the norm test in the metric that the optimizer's steps are steepest in: coordinates\n"
        "weighted by 1 / (sqrt(v) + eps), with v AdaGrad's sums or Adam's averages.",
        lambda task: criteria.MetricNormTest(
            task.constants["eta"],
            task.metric or "sgd",
            task.optimizer,
            task.model.named_parameters(),
        ),
        ("eta",),
        reads_coordinates=True,
        reads_metric=True,
    ),
    "sign": BatchTest(
        "the norm test in the metric of sign descent, by sums of absolute values.",
        lambda task: criteria.MetricNormTest(task.constants["eta"], "sign"),
        ("eta",),
        reads_coordinates=True,
    ),
    "noise-scale": BatchTest(
        "b = scale V / |G|^2, with |G|^2 = |g|^2 - V / b (McCandlish et al. 2018).\n"
        "--smoothing averages V and |G|^2, without which single batches estimate them badly.",
        lambda task: criteria.GradientNoiseScale(task.constants["scale"]),
        ("scale",),
    ),
    "cabs": BatchTest(
        "b = scale lr V / loss, both averaged (CABS, Balles et al. 2017); made for sgd.",
        lambda task: criteria.CABS(task.lr, c=task.constants["scale"]),
        ("scale",),
        coupled=True,
    ),
    "diversity": BatchTest(
        "b = delta n D at the end of every --epochs-between-th epoch, over whose n samples\n"
        "D = sum |g_i|^2 / |sum g_i|^2 (DiveBatch, Chen et al. 2025).\n"
        "--lr-rule linear is its rescaling.",
        lambda task: criteria.GradientDiversity(
            task.constants["delta"], task.training_samples, int(task.constants["epochs_between"])
        ),
        ("delta", "epochs_between"),
        decides_every_step=False,
    ),
    "none": BatchTest(
        "the batch stays at --batch-size.", lambda task: None, decides_every_step=False
    ),
}


@dataclass(frozen=True)
class Shape:
    """A schedule between two sizes.

    Attributes:
        help: how the size moves.
        build: from the first size, the largest, and the numbers after the colon.
        numbers: what those are called.
    """

    help: str
    build: Callable[..., BatchSizeSchedule]
    numbers: tuple[str, ...] = ("N",)


SHAPES = {
    "step": Shape(
        "twice as large after every N samples (AdaBatch, Devarakonda et al. 2017, who\n"
        "multiply the learning rate by --lr-rule 0.75)",
        lambda first, largest, number: StepSchedule(first, step_size=number),
    ),
    "linear": Shape("in a straight line over N samples", LinearSchedule),
    "cosine": Shape("along half a cosine wave over N samples", CosineSchedule),
    "plateau": Shape(
        "twice as large after N evaluations in a row that did not improve the\ntest loss",
        lambda first, largest, number: PlateauSchedule(first, patience=number - 1),
    ),
    "late": Shape(
        "at once, after N samples, late in the run (arXiv 2602.14208)", LateSwitchSchedule
    ),
    "wsd": Shape(
        "twice as large after equal shares of the stable phase of N samples: the\n"
        "learning rate rises over the first 5 %, stays, and falls to 0 over the\n"
        "last 20 % (warm-up, stable, decay; arXiv 2601.05034)",
        WarmupStableDecay,
    ),
    "one-cycle": Shape(
        "down to SMALLEST over 30 % of N samples, and up over the rest (1cycle, arXiv\n"
        "1803.09820, of the batch in the place of the learning rate)",
        lambda first, largest, number, smallest: OneCycleSchedule(first, smallest, largest, number),
        numbers=("N", "SMALLEST"),
    ),
}


@dataclass(frozen=True)
class Descent:
    """An optimizer.

    Attributes:
        help: what it is.
        lr: the default learning rate.
        build: from parameters, ``lr`` and what it takes.
        metric: that its steps are the steepest descent in, for the test of that name.
        takes: which of ``SETTINGS``.
    """

    help: str
    lr: float
    build: Callable[..., Optimizer]
    metric: str | None = None
    takes: tuple[str, ...] = ("weight_decay",)


#: The default of each setting that only some optimizers take.
SETTINGS = {"momentum": 0.0, "beta2": 0.999, "weight_decay": 0.0}


def _adam(kind: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    return lambda parameters, *, beta2, **settings: kind(parameters, betas=(0.9, beta2), **settings)


OPTIMIZERS = {
    "adagrad": Descent("one accumulator per coordinate", 0.008, optim.Adagrad, metric="adagrad"),
    "adagrad-norm": Descent("one in all", 1.0, optim.AdagradNorm),
    "adagrad-norm-rows": Descent(
        "one per output row, as in the paper's code", 0.1, partial(optim.AdagradNorm, row_wise=True)
    ),
    "delayed-adagrad-norm": Descent(
        "one in all, without the current gradient (AdaBatchGrad)",
        1.0,
        optim.DelayedAdagradNorm,
        takes=(),
    ),
    "sgd": Descent("torch's", 0.1, torch.optim.SGD, takes=("momentum", "weight_decay")),
    "adam": Descent(
        "torch's", 0.001, _adam(torch.optim.Adam), metric="adam", takes=("beta2", "weight_decay")
    ),
    "adamw": Descent(
        "torch's", 0.001, _adam(torch.optim.AdamW), metric="adam", takes=("beta2", "weight_decay")
    ),
}


def tests_with(constant: str) -> list[str]:
    """The tests that have a constant."""
    return [name for name, test in TESTS.items() if constant in test.constants]


def takers_of(setting: str) -> list[str]:
    """The optimizers that take a setting."""
    return [name for name, kind in OPTIMIZERS.items() if setting in kind.takes]


def optimizers_with_metric() -> list[str]:
    """Those whose steps have a metric of their own."""
    return [name for name, kind in OPTIMIZERS.items() if kind.metric is not None]


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    **settings: float,
) -> Optimizer:
    """Builds an optimizer; AdaGrad and AdaGrad-Norm run on this package's kernels.

    Args:
        name: one of ``OPTIMIZERS``.
        parameters: to be trained.
        lr: the learning rate.
        settings: some of ``SETTINGS``; what the optimizer does not take is left out.
    """
    kind = OPTIMIZERS[name]
    taken = {setting: {**SETTINGS, **settings}[setting] for setting in kind.takes}
    return kind.build(parameters, lr=lr, **taken)
