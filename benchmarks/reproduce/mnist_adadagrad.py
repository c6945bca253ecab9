"""AdAdaGrad on MNIST: four optimizers with the norm test against fixed batches.

Lau, Liu, Kolar, arXiv 2402.11215: logistic regression and the "3-layer CNN", 6,000,000 samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.reproduce.harness import training_run
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import Experiment, Options, Run, Stored, groups
from benchmarks.reproduce.tables import (
    LOSS_AND_ACCURACY,
    cell,
    paragraph,
    table,
    tasks,
    training_table,
    whole,
)
from benchmarks.reproduce.targets import at
from benchmarks.reproduce.tasks import images

NAME = "mnist_adadagrad"
BUDGET = 6_000_000
#: From so many samples on a run of the CNN is compared with the published ones.
LONG = 2_000_000
TRAINING_SET = 60_000
#: The published accuracy, in steps of which the paper speaks.
TARGET = 0.96

# AdaGrad's rate is the one of the paper's script; it states none for the others.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdAdaGrad": {"kind": "adagrad", "lr": 0.008},
    "AdAdaGrad-Norm": {"kind": "adagrad-norm", "lr": 1.0},
    "AdaSGD": {"kind": "sgd", "lr": 0.1},
    "AdAdam": {"kind": "adam", "lr": 0.001, "betas": [0.9, 0.95]},
}
FIXED = {
    "AdaGrad": "AdAdaGrad",
    "AdaGrad-Norm": "AdAdaGrad-Norm",
    "SGD": "AdaSGD",
    "Adam": "AdAdam",
}


@dataclass(frozen=True)
class Model:
    """A model and how much of the grid it gets at a size."""

    name: str
    batch_size: int
    adaptive: dict[str, tuple[float, ...]]
    fixed: tuple[int, ...]
    samples: int
    seeds: int
    threads: int
    target: float = TARGET
    fixed_optimizers: tuple[str, ...] = tuple(FIXED)
    evaluations: int = 40


GRID = {method: (0.05, 0.1, 0.25, 0.5) for method in OPTIMIZERS}
MODELS = {
    "smoke": [
        Model("logistic", 2, {"AdAdaGrad": (0.5,), "AdaSGD": (0.5,)}, (64,), 2_000, 2, 1, 0.8),
        Model("cnn", 8, {"AdAdaGrad": (0.5,)}, (), 1_000, 1, 1, 0.5),
    ],
    "machine": [
        Model("logistic", 2, GRID, (64, 4096), 1_200_000, 2, 1, 0.85),
        Model("cnn, the published budget", 8, {"AdAdaGrad": (0.1,)}, (), BUDGET, 1, 2),
        Model("cnn, 2,000,000 samples", 8, {"AdaSGD": (0.1,)}, (), 2_000_000, 1, 2),
        Model("cnn, 120,000 samples", 8, GRID, (512,), 120_000, 2, 2, 0.9, ("AdaGrad", "SGD"), 20),
    ],
    "paper": [
        Model("logistic", 2, GRID, (64, 512, 4096), BUDGET, 5, 1, 0.9),
        Model("cnn", 8, GRID, (512, 4096), BUDGET, 5, 2),
    ],
}  # fmt: skip


def runs(options: Options) -> list[Run]:
    """Every model, seed and method."""
    return [
        training_run(
            model.name,
            images(model.name.partition(",")[0], options),
            plan,
            seed,
            options,
            threads=model.threads,
        )
        for model in MODELS[options.size]
        for plan in plans(model, 200 if options.size == "smoke" else TRAINING_SET)
        for seed in range(options.seeds or model.seeds)
    ]


def plans(model: Model, every: int) -> list[Plan]:
    """The grid of a model."""
    common: dict[str, Any] = {
        "samples": model.samples,
        "evaluate_every": min(every, max(1, model.samples // model.evaluations)),
        "targets": {"test_accuracy": [model.target]},
    }
    adaptive = [
        Plan(
            f"{method}, η = {eta:g}",
            _plain(OPTIMIZERS[method]),
            model.batch_size,
            growth={"rule": "norm", "eta": eta},
            max_batch=TRAINING_SET,
            **common,
        )
        for method, etas in model.adaptive.items()
        for eta in etas
    ]
    fixed = [
        Plan(f"{method}, batch {size:,}", _plain(OPTIMIZERS[FIXED[method]]), size, **common)
        for method in model.fixed_optimizers
        for size in model.fixed
    ]
    return adaptive + fixed


def _plain(optimizer: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in optimizer.items()}


PUBLISHED = """\
Lau, Liu, Kolar, arXiv 2402.11215, and the authors' code. The paper: 96 % validation accuracy with
149 steps of AdAdaGrad and an average batch above 40,000 at η = 0.1, against 366 steps for SGD
(CNN). 6,000,000 samples in 149 steps are an average batch of 40,268, and in 366 steps of 16,393:
the published steps are those of the whole budget. So the table has the steps to the accuracy and
those of the budget. Where a run ends below the paper's budget at its cap of 60,000, every further
step would take 60,000 samples, and the length of the whole budget follows from its end, to within
a step. AdaGrad's learning rate is the published one, 0.008; those of the other optimizers and the
other hyper-parameters of their runs are not stated and are ours.
"""


def section(figures: Stored) -> list[str]:
    """What the budgets and the accuracies took."""
    lines = paragraph(PUBLISHED)
    lines += _against_published(figures.runs)
    for task, members in tasks(figures.runs).items():
        plan = members[0]["settings"]["plan"]
        (target,) = plan["targets"]["test_accuracy"]
        lines += [f"### {task}", "", f"{plan['samples']:,} samples in each run.", ""]
        lines += training_table(members, "test_accuracy", target, LOSS_AND_ACCURACY)
    return lines


def _against_published(runs: list[dict[str, Any]]) -> list[str]:
    published = {"AdAdaGrad, η = 0.1": (149, ">40,000"), "AdaSGD, η = 0.1": (366, NONE_STATED)}
    rows = []
    for task, method, members in groups(runs):
        samples = members[0]["settings"]["plan"]["samples"]
        if not task.startswith("cnn") or samples < LONG or method not in published:
            continue
        steps = [budget_steps(run["result"]) for run in members]
        reached = [at(run["result"], "test_accuracy", TARGET) for run in members]
        rows.append(
            [
                method,
                str(published[method][0]),
                cell(steps, whole),
                published[method][1],
                cell([s and BUDGET / s for s in steps], whole),
                cell([r["steps"] if r else None for r in reached], whole),
            ]
        )
    if not rows:
        return []
    header = ["CNN", "published steps", "ours, of 6,000,000 samples", "published average batch",
              "ours", "our steps to 96 %"]  # fmt: skip
    return table(header, rows)


NONE_STATED = "not stated"


def budget_steps(result: dict[str, Any]) -> float | None:
    """The steps of the whole budget; None where the run stopped before that is known."""
    left = BUDGET - result["samples"]
    if left and result["batch"] < TRAINING_SET:
        return None
    return float(result["steps"] + -(-left // TRAINING_SET))


FINDINGS = """\
AdAdaGrad matches the publication: the CNN takes 143 steps for the budget, against 149 in the
paper, with an average batch above 40,000, and passes 96 % on the way. AdaSGD does not. At the
learning rate chosen here, 0.1, its batch reaches the cap before 800,000 samples, so the budget
gives fewer steps than the published 366; at the cap its accuracy swings between 78 and 91 % and
stays far from 96 %. The paper does not state its rate; a smaller one may keep batches small for
longer. Nor does it show what the steps cost. With the same 120,000 samples a fixed batch of 512
reaches 90 % in no more samples and seconds than the best η, and ends above all of them: adaptive
batches save steps, not samples. Statistics take about a fifth of the seconds of logistic
regression, where a sample takes four microseconds, and 4 % of the CNN's long run. In its short
runs they are too small to time.
"""

EXPERIMENT = Experiment(NAME, "AdAdaGrad on MNIST", 49, runs, section, {"machine": FINDINGS})
