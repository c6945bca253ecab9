"""AdaGrad against SGD at growing batch sizes: logistic regression, and a GPT that is fine-tuned.

Liu, Pan, Zhang, arXiv 2406.15244: AdaGrad's bound has ||sigma||_1 D_inf / sqrt(M T) beside
||L||_1 D_inf² / T, so that a larger batch M helps where features are rare and differ in scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from adadagrad_kernels.cli.progress import Progress
from benchmarks.reproduce.harness import train, training_run
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import Experiment, Options, Run, Stored
from benchmarks.reproduce.sparse_data import data_set, regression, split
from benchmarks.reproduce.tables import NONE, cell, final, mean, paragraph, short, table, tasks
from benchmarks.reproduce.tasks import Task, fine_tuning

NAME = "large_batch_adagrad"
OPTIMIZERS = {"AdaGrad": "adagrad", "SGD": "sgd"}
FINE_TUNING = "GPT, fine-tuned"


@dataclass(frozen=True)
class Size:
    """Epochs of each data set, batches and learning rates; the same of the fine-tuning."""

    epochs: dict[str, int]
    batches: tuple[int, ...]
    rates: tuple[float, ...]
    seeds: int
    layers: int
    width: int
    tokens: int
    pretraining: int
    samples: int
    gpt_batches: tuple[int, ...]
    gpt_rates: tuple[float, ...]


SIZES = {
    "smoke": Size({"a4a": 1, "news20": 1}, (16, 64), (0.1, 1.0), 1, 1, 16, 16, 32, 32, (8,),
                  (0.1,)),
    "machine": Size({"a4a": 10, "a9a": 5, "w8a": 3, "news20": 5}, (16, 64, 256, 1024, 4096),
                    (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), 2, 2, 64, 64, 8_000, 4_096,
                    (8, 64, 512), (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
    "paper": Size({"a4a": 100, "a9a": 50, "w8a": 50, "news20": 50}, (16, 64, 256, 1024, 4096),
                  (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), 3, 6, 384, 256,
                  200_000, 60_000, (8, 32, 128, 512),
                  (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
}  # fmt: skip


def runs(options: Options) -> list[Run]:
    """Every task, batch, optimizer, learning rate and seed."""
    size = SIZES[options.size]
    found = []
    for name, epochs in size.epochs.items():
        make = _task(name, options)
        found += _grid(name, make, None, epochs, size.batches, size.rates, size, options)
    return found + _grid(
        FINE_TUNING, _pretrained(size, options), size.samples, 0, size.gpt_batches,
        size.gpt_rates, replace(size, seeds=1), options,
    )  # fmt: skip


#: Samples of nine tenths of each data set, by which epochs become a budget.
TRAINING_SETS = {"a4a": 4_302, "a9a": 29_304, "w8a": 44_774, "news20": 14_341}


def _grid(
    task: str,
    make: Callable[[], Task],
    samples: int | None,
    epochs: int,
    batches: tuple[int, ...],
    rates: tuple[float, ...],
    size: Size,
    options: Options,
) -> list[Run]:
    if samples is None:
        samples = epochs * (180 if options.size == "smoke" else TRAINING_SETS[task])
    return [
        training_run(
            task,
            make,
            Plan(
                f"{name}, batch {batch:,}, lr {rate:g}",
                {"kind": kind, "lr": rate},
                batch,
                samples,
                evaluate_every=max(1, samples // 2),
                micro_batch=64 if task == FINE_TUNING else 4096,
            ),
            seed,
            options,
            data=f"{size.tokens} characters" if task == FINE_TUNING else f"{epochs} epochs",
        )
        for batch in batches
        for name, kind in OPTIMIZERS.items()
        for rate in rates
        for seed in range(options.seeds or size.seeds)
    ]


def _task(name: str, options: Options) -> Callable[[], Task]:
    return cache(lambda: regression(name, *split(data_set(name, options))))


def _pretrained(size: Size, options: Options) -> Callable[[], Task]:
    """Shakespeare by a model that has learnt from Austen; it learns once for all runs."""

    @cache
    def make() -> Task:
        before, after = fine_tuning(options, size.tokens, size.layers, size.width)
        plan = Plan("", {"kind": "adam", "lr": 2e-3}, 32, size.pretraining,
                    evaluate_every=size.pretraining, shape="cosine", warmup=0.05)  # fmt: skip
        trainer, _ = train(before, plan, 0, Progress("Austen", size.pretraining, quiet=True))
        return replace(after, build=partial(_copy, after.build, trainer.model.state_dict()))

    return make


def _copy(build: Callable[[], nn.Module], state: dict[str, torch.Tensor]) -> nn.Module:
    model = build()
    model.load_state_dict(state)
    return model


TEXT = """\
Liu, Pan, Zhang, arXiv 2406.15244, whose conclusion is that AdaGrad is consistently better than
SGD across batch sizes; their figures were not available to compare with. Training loss after
equal samples, constant learning rate, the best of the grid {rates} for each cell, chosen by that
same loss. Of the paper's data sets real-sim and rcv1 are replaced by w8a and news20 (its 20
classes, ten against ten). Nine tenths of each data set are trained on. The fine-tuning is of a
character model of two layers that has learnt from Austen's novels and goes on with Shakespeare's
dialogues, in the place of GPT-2 and Alpaca. Batches are fixed, so no statistics are measured, and
seconds are those of all samples: that is the target here.
"""


def section(figures: Stored) -> list[str]:
    """The best of the grid in every cell."""
    rates = sorted({run["settings"]["plan"]["optimizer"]["lr"] for run in figures.runs})
    lines = paragraph(TEXT, rates=", ".join(f"{rate:g}" for rate in rates))
    header = ["batch", "AdaGrad: training loss", "lr", "seconds", "SGD: training loss", "lr",
              "seconds", "SGD − AdaGrad"]  # fmt: skip
    for task, members in tasks(figures.runs).items():
        settings = members[0]["settings"]
        samples = settings["plan"]["samples"]
        lines += [f"### {task}", "", f"{samples:,} samples, {settings['data']}.", ""]
        batches = sorted({run["settings"]["plan"]["batch_size"] for run in members})
        lines += table(header, [_row(members, batch) for batch in batches])
    return lines


def _row(runs: list[dict[str, Any]], batch: int) -> list[str]:
    best = {
        name: _best([run for run in runs if run["method"].startswith(f"{name}, batch {batch:,},")])
        for name in OPTIMIZERS
    }
    row = [f"{batch:,}"]
    for found in best.values():
        if not found:
            row += [NONE] * 3
            continue
        rate = found[0]["settings"]["plan"]["optimizer"]["lr"]
        seconds = [run["result"]["seconds"] for run in found]
        row += [cell(final(found, "train_loss"), short), f"{rate:g}", cell(seconds, short)]
    if not all(best.values()):
        return [*row, NONE]
    ours, theirs = (final(found, "train_loss") for found in best.values())
    gaps = [b - a for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return [*row, cell(gaps, short)]


def _best(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The seeds of the learning rate with the smallest mean loss; empty where none has one."""
    by_rate: dict[float, list[dict[str, Any]]] = {}
    for run in runs:
        by_rate.setdefault(run["settings"]["plan"]["optimizer"]["lr"], []).append(run)
    losses = {
        rate: mean(known)[0]
        for rate, members in by_rate.items()
        if None not in (known := final(members, "train_loss"))
    }
    return by_rate[min(losses, key=losses.__getitem__)] if losses else []


FINDINGS = """\
The paper's conclusion holds in all 23 cells: AdaGrad ends below SGD at every batch, each at its
own best learning rate. On logistic regression the gap grows with the batch, 6 to 14 times from 16
to 4,096. AdaGrad loses little up to 1,024; SGD follows only with rates that grow with the batch,
up to 100. Fine-tuning shows the sign and not the growth: large batches leave so few steps there
that neither optimizer gets far.
"""

EXPERIMENT = Experiment(
    NAME, "AdaGrad against SGD at large batches", 13, runs, section, {"machine": FINDINGS}
)
