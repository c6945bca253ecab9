"""Which batch, with which optimizer, on how many workers: a small GPT in every way there is.

No paper's experiment. Every optimizer trains with every way to size the batch, each at its own
learning rate; seconds on many workers are simulated by the model of ``adadagrad-kernels plan``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.reproduce import scale
from benchmarks.reproduce.harness import training_run
from benchmarks.reproduce.muon import MuonTrainer
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import Experiment, Options, Run, Stored, stored
from benchmarks.reproduce.selection import best_rates, way_of
from benchmarks.reproduce.tables import (
    cell,
    final,
    paragraph,
    share,
    short,
    spent_to,
    table,
    tasks,
    whole,
)
from benchmarks.reproduce.tasks import Task, text

NAME = "gpt_schedules"
LOSS = "test_loss"
#: Settings of each optimizer, and the learning rate in the middle of its grid for a batch of 32.
OPTIMIZERS: dict[str, tuple[dict[str, Any], float]] = {
    "AdamW": ({"kind": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.1}, 1e-2),
    "Muon": ({"kind": "muon", "betas": [0.9, 0.95], "weight_decay": 0.1}, 2e-2),
    "AdaGrad": ({"kind": "adagrad"}, 5e-2),
}
#: The test in the metric of each, with its name.
METRICS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdamW": ("test in Adam's metric", {"rule": "metric", "metric": "adam"}),
    "Muon": ("test in the spectral norm", {"rule": "spectral"}),
    "AdaGrad": ("test in AdaGrad's metric", {"rule": "metric", "metric": "adagrad"}),
}
#: The grid of each way, times the middle of it.
FACTORS = (1 / 3, 1.0, 3.0)
#: Of the budget: the warm-up of the rate, and what passes before the late switch.
WARMUP, SWITCH = 0.05, 0.7
#: What the cosine ends at.
FLOOR = 0.1
#: Steps between two tests.
INTERVAL = 4


@dataclass(frozen=True)
class Size:
    """The model, its budget in sequences, the fixed batches, the cap, the tests' constant.

    Of the targets, whose counts are all kept, the first is shown.
    """

    tokens: int
    layers: int
    width: int
    samples: int
    targets: tuple[float, ...]
    fixed: tuple[int, ...]
    smallest: int
    largest: int
    eta: float
    factors: tuple[float, ...]
    seeds: int
    threads: int


SIZES = {
    "smoke": Size(16, 1, 16, 64, (2.52,), (8,), 8, 16, 0.9, (1.0,), 1, 1),
    "machine": Size(
        64, 2, 128, 5_120, (2.5, 2.6, 2.4, 2.3), (8, 32, 128), 8, 128, 0.9, FACTORS, 3, 1
    ),
    "paper": Size(
        256, 6, 384, 400_000, (1.6, 1.8, 1.5), (8, 32, 128, 512), 8, 512, 0.9, FACTORS, 5, 2
    ),
}


def runs(options: Options) -> list[Run]:
    """The grid of every way with one seed; further seeds at the best rate of each, once known."""
    size = SIZES[options.size]
    figures = stored(NAME, options.size, options.folder)
    found = []
    for optimizer in OPTIMIZERS:
        make = text(options, tokens=size.tokens, layers=size.layers, width=size.width)
        for plans in ways(size, optimizer):
            listed = partial(_run, options, size, optimizer, make)
            grid = [listed(plan, 0) for plan in plans]
            found += grid
            if all(map(figures.has, grid)):
                keys = {run.key for run in grid}
                mine = [r for r in figures.runs if (r["task"], r["method"], r["seed"]) in keys]
                chosen = best_rates(mine, LOSS).values()
                found += [
                    listed(plan, seed)
                    for plan in plans
                    if plan.optimizer["lr"] in chosen
                    for seed in range(1, options.seeds or size.seeds)
                ]
    return found


def _run(
    options: Options, size: Size, optimizer: str, make: Callable[[], Task], plan: Plan, seed: int
) -> Run:
    def task() -> Task:
        if optimizer != "Muon":
            return make()
        spectral = plan.growth.get("rule") == "spectral"
        return replace(make(), trainer=partial(MuonTrainer, spectral=spectral))

    data = f"sequences of {size.tokens}"
    return training_run(optimizer, task, plan, seed, options, threads=size.threads, data=data)


def ways(size: Size, optimizer: str) -> list[list[Plan]]:
    """Every way to size the batch, with every learning rate of its grid."""
    small, large = size.smallest, size.largest
    sizes = (large // small).bit_length()
    name, metric = METRICS[optimizer]
    growing: dict[str, dict[str, Any]] = {
        "doubling": {"rule": "doubling", "every": size.samples // sizes},
        "late switch": {"rule": "late", "after": int(SWITCH * size.samples)},
        f"norm test, η = {size.eta:g}": {"rule": "norm", "eta": size.eta},
        f"{name}, η = {size.eta:g}": {**metric, "eta": size.eta},
    }
    planned = partial(_plans, size, optimizer)
    return [planned(f"batch {batch:,}", batch, batch, {}) for batch in size.fixed] + [
        planned(f"{way}, {small} to {large:,}", small, large, growth)
        for way, growth in growing.items()
    ]


def _plans(
    size: Size, optimizer: str, way: str, batch: int, largest: int, growth: dict[str, Any]
) -> list[Plan]:
    settings, middle = OPTIMIZERS[optimizer]
    rates = [float(f"{f * middle * (batch / 32) ** 0.5:.2g}") for f in size.factors]
    late = growth.get("rule") == "late"
    return [
        Plan(
            f"{way}, lr {rate:g}",
            {**settings, "lr": rate},
            batch,
            size.samples,
            evaluate_every=max(1, size.samples // 20),
            growth=growth,
            max_batch=largest,
            shape="cosine",
            warmup=WARMUP,
            floor=FLOOR,
            on_growth=0.5 if growth and not late else 0.0,
            targets={LOSS: list(size.targets)},
            micro_batch=32,
            test_interval=INTERVAL,
        )
        for rate in rates
    ]


TEXT = """\
The next character of tiny shakespeare, nine tenths to train on; losses in nats per character. A
sample is a sequence of {tokens} characters, and every run takes {samples:,} of them. No published
counterpart.

Every way to size the batch has a grid of {rates} learning rates, a factor of 3 apart, whose middle
is the optimizer's for a batch of 32 times √(B / 32), B the first batch. One seed runs the grid. The
rate with the lowest test loss at the end, after equal samples, is the way's own, and is run with
further seeds; the first seed, which has chosen, stays among them. An asterisk marks a rate at the
edge of its grid: a better one may lie beyond. The test loss at the end, and not the steps to the
target, chooses, because every run has one, and because no way is then helped to the figure that the
table is about. The rate rises over 5 % of the samples and falls along a cosine to a tenth. A batch
that grows multiplies it by √growth, but for the late switch, after {switch:g} % of the samples,
which leaves it, as its paper does (arXiv 2602.14208). Tests decide at every {interval}th step;
their η was not tuned. Muon is torch's, for the matrices of the blocks; embeddings, head and vectors
have AdamW at the same rate. Its spectral test takes four micro-batches.

Seconds on 8, 64 and 512 workers are a simulation: the steps of these runs, each as long as
`adadagrad-kernels plan` says ([cli.md](cli.md#adadagrad-kernels-probe-and-plan)) for workers that
we do not have, whose step takes {overhead:g} ms and {each:g} ms more for every sequence, with
messages of {latency:g} µs, {bandwidth:g} GB/s between workers and a gradient of {megabytes:g} MB.
Statistics take the share of a step that they took here. At 512 workers every batch is one sequence
a worker at most, and steps alone decide.
"""


def section(figures: Stored) -> list[str]:
    """A table for each optimizer, and what is fastest with each at every scale."""
    settings = figures.runs[0]["settings"]
    plan, tokens = settings["plan"], int(settings["data"].split()[-1])
    target = plan["targets"][LOSS][0]
    hardware = scale.HARDWARE
    overhead, each = scale.step_parts()
    lines = paragraph(
        TEXT, tokens=tokens, samples=plan["samples"], rates=len(SIZES[figures.size].factors),
        switch=100 * SWITCH, interval=INTERVAL, overhead=1e3 * overhead, each=1e3 * each,
        latency=1e6 * hardware.latency, bandwidth=hardware.bandwidth / 1e9,
        megabytes=hardware.gradient_bytes / 1e6,
    )  # fmt: skip
    header = ["", "lr", "seeds", "steps", "average batch", "of it statistics", "test loss",
              f"steps to {target:g}", "samples to it", "seconds to it, here",
              *(f"{count} workers, simulated" for count in scale.WORKERS)]  # fmt: skip
    fastest = []
    for optimizer, members in tasks(figures.runs).items():
        chosen = shown(members)
        rows = [_row(way, own, members, target) for way, own in chosen.items()]
        lines += [f"### {optimizer}", "", *table(header, rows)]
        fastest.append([optimizer, *scale.verdicts(chosen, LOSS, target)])
    header = ["fewest seconds", "here", *(f"{count} workers" for count in scale.WORKERS)]
    lines += ["### What is fastest, and what a test adds to it", ""]
    lines += paragraph(scale.TEXT, target=target)
    return lines + table(header, fastest)


def shown(members: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Of one optimizer's runs all seeds of every way's best rate."""
    best = best_rates(members, LOSS)
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in best}
    for run in members:
        way = way_of(run)
        if way in best and run["settings"]["plan"]["optimizer"]["lr"] == best[way]:
            found[way].append(run)
    return found


def _row(
    way: str, own: list[dict[str, Any]], members: list[dict[str, Any]], target: float
) -> list[str]:
    rates = [r["settings"]["plan"]["optimizer"]["lr"] for r in members if way_of(r) == way]
    rate = own[0]["settings"]["plan"]["optimizer"]["lr"]
    edge = "*" if len({*rates}) > 1 and rate in (min(rates), max(rates)) else ""
    results = [run["result"] for run in own]
    return [
        way,
        f"{rate:g}{edge}",
        str(len(own)),
        cell([r["steps"] for r in results], whole),
        cell([r["samples"] / r["steps"] for r in results], whole),
        share(own),
        cell(final(own, LOSS), short),
        *spent_to(own, LOSS, target),
        *(cell(scale.seconds(own, LOSS, target, count), short) for count in scale.WORKERS),
    ]


EXPERIMENT = Experiment(
    NAME, "Which batch, with which optimizer, at which scale", 45, runs, section
)
