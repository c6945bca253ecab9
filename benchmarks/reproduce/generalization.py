"""Do large batches generalize worse? The same samples by four schedules, the noise measured.

A controlled study of its own: 10,000 of MNIST's images, so that there is something to overfit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from adadagrad_kernels import layer_statistics
from adadagrad_kernels.training.data import CLASSES
from adadagrad_kernels.training.models import MODELS
from benchmarks.reproduce.harness import training_run
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import Experiment, Options, Run, Stored, groups
from benchmarks.reproduce.tables import (
    cell,
    paragraph,
    percent,
    short,
    table,
    training_table,
    whole,
)
from benchmarks.reproduce.tasks import Task, classification, load_images

NAME = "generalization"
#: Samples by whose gradients the noise is measured at every evaluation.
NOISE_SAMPLES = 1024
SHARES = (0.1, 0.3, 0.5, 1.0)
FINALS = [
    ("training loss", "train_loss", short),
    ("test loss", "test_loss", short),
    ("test accuracy", "test_accuracy", percent),
]
#: By what the large batch's learning rate is multiplied: tuned for it, as its own is for the small.
RESCALED = (2, 4)


@dataclass(frozen=True)
class Size:
    """Training set, epochs, and the smallest and the largest batch."""

    training_set: int
    epochs: int
    smallest: int
    largest: int
    eta: float
    target: float
    lr: float
    seeds: int
    threads: int


SIZES = {
    "smoke": Size(200, 2, 8, 32, 1.0, 0.5, 0.1, 1, 1),
    "machine": Size(10_000, 8, 16, 1024, 0.9, 0.95, 0.1, 3, 2),
    "paper": Size(60_000, 60, 16, 4096, 0.9, 0.985, 0.1, 10, 2),
}


def runs(options: Options) -> list[Run]:
    """Every schedule and seed."""
    size = SIZES[options.size]
    return [
        training_run(
            "CNN on a part of MNIST",
            partial(_task, size, options),
            plan,
            seed,
            options,
            threads=size.threads,
            data=f"the first {size.training_set:,} images",
        )
        for plan in plans(size)
        for seed in range(options.seeds or size.seeds)
    ]


def plans(size: Size) -> list[Plan]:
    """Fixed small, fixed large with two learning rates, doubling, adaptive."""
    samples = size.epochs * size.training_set
    common: dict[str, Any] = {
        "optimizer": {"kind": "sgd", "lr": size.lr},
        "samples": samples,
        "evaluate_every": samples // 10,
        "targets": {"test_accuracy": [size.target]},
    }
    small, large = size.smallest, size.largest
    doublings = (large // small).bit_length()
    return [
        Plan(f"fixed small, {small}", batch_size=small, **common),
        Plan(f"fixed large, {large:,}", batch_size=large, **common),
        *(
            Plan(f"fixed large, {large:,}, lr × {factor}", batch_size=large,
                 **{**common, "optimizer": {"kind": "sgd", "lr": factor * size.lr}})
            for factor in RESCALED
        ),
        Plan(f"doubling, {small} to {large:,}", batch_size=small, max_batch=large,
             growth={"rule": "doubling", "every": samples // doublings}, **common),
        Plan(f"norm test, η = {size.eta:g}, {small} to at most {large:,}", batch_size=small,
             max_batch=large, growth={"rule": "norm", "eta": size.eta}, **common),
    ]  # fmt: skip


@cache
def _task(size: Size, options: Options) -> Task:
    data = load_images(options)
    data = replace(data, train=data.train.first(size.training_set))
    build = partial(MODELS["cnn"], data.train.inputs.shape[1:], CLASSES)
    task = classification("a part of MNIST", data, build)
    return replace(task, also=_noise(task))


def _noise(task: Task) -> Callable[[nn.Module], dict[str, float]]:
    """The noise scale tr(Sigma) / |G|² on the same samples every time."""
    with torch.random.fork_rng(devices=[]):
        apart = task.build()
    data = task.data.train.first(NOISE_SAMPLES)

    def measured(model: nn.Module) -> dict[str, float]:
        # Not the model itself, whose layers are being measured for the training.
        apart.load_state_dict(model.state_dict())
        apart.zero_grad()
        with layer_statistics(apart, on_nonfinite="record") as recorder:
            for inputs, targets in data.parts(512):
                loss = task.data.objective.loss(apart(inputs), targets, reduction="sum")
                (loss / len(data)).backward()
            statistics = recorder.statistics()
        assert statistics is not None
        return {
            "noise": statistics.noise_scale,
            "smallest_eta": (statistics.variance_norm / statistics.mean_sq_norm / len(data)) ** 0.5,
        }

    return measured


TEXT = """\
A study of our own: every schedule takes the same {samples:,} samples of {data}, by SGD with lr
{lr:g} and, for the fixed large batch, which makes few steps of the same samples, also with larger
rates. The training loss is that of the first 2,000 images, test loss and accuracy are those of
MNIST's whole test set: what generalizes badly has a small training loss and a larger test loss. The
noise scale is tr(Σ) / |G|² by its unbiased parts on the same {noise:,} training samples at every
evaluation; it is infinite (–) where the estimate of |G|² is not positive.
"""


def section(figures: Stored) -> list[str]:
    """The end of every schedule, then accuracy and noise along the way."""
    settings = figures.runs[0]["settings"]
    plan = settings["plan"]
    (target,) = plan["targets"]["test_accuracy"]
    lines = paragraph(TEXT, samples=plan["samples"], data=settings["data"],
                      lr=plan["optimizer"]["lr"], noise=NOISE_SAMPLES)  # fmt: skip
    lines += training_table(figures.runs, "test_accuracy", target, FINALS)
    header = ["at this share of the samples", *(f"{share:.0%}" for share in SHARES)]
    for title, name, style in (
        ("test accuracy", "test_accuracy", percent),
        ("noise scale", "noise", whole),
        ("batch", "batch", whole),
    ):
        rows = [
            [f"{title}: {method}", *(cell(_along(members, share, name), style) for share in SHARES)]
            for _, method, members in groups(figures.runs)
        ]
        lines += table(header, rows)
    return lines


def _along(runs: list[dict[str, Any]], share: float, name: str) -> list[float | None]:
    """A metric at the evaluation nearest to a share of the budget."""
    found = []
    for run in runs:
        wanted = share * run["settings"]["plan"]["samples"]
        curve = run["result"]["curve"]
        found.append(min(curve, key=lambda point: abs(point["samples"] - wanted))[name])
    return found


FINDINGS = """\
Here large batches do not generalize worse; they train less. With the same samples the batch of
1,024 ends with equal training and test losses, so what it lacks is steps. At twice the rate it
lacks fewer; at four times the rate it no longer trains. The small batch, and the doubling that
begins with it, fit the training set five to thirty times as closely. They alone have a gap between
the two losses, and still the lowest test loss. The norm test lies between: it leaves the small
batch within the first tenth of the samples. At the end the noise scale is in the thousands or far
above where the training loss is small, and a few hundred where it is not: it measures how far a
training has come more than which batches took it there.
"""

EXPERIMENT = Experiment(
    NAME, "Batch schedules and generalization", 7.5, runs, section, {"machine": FINDINGS}
)
