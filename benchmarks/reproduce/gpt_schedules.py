"""Which batch, with which optimizer, on how many workers: a small GPT in every way there is.

No paper's experiment. Every optimizer trains with every way to size the batch, each at its own
learning rate; seconds on many workers are simulated by the model of ``adadagrad-kernels plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
#: Between the rates of a grid; those of each way, times the middle; how many it may go on by.
APART = 3.0
FACTORS = (1 / APART, 1.0, APART)
FURTHER = 3
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
    """The grid of every way with one seed, which goes on where the best rate is at its edge.

    Further seeds, at the best rate of each way, once it is known.
    """
    size = SIZES[options.size]
    figures = stored(NAME, options.size, options.folder)
    found = []
    for optimizer in OPTIMIZERS:
        make = text(options, tokens=size.tokens, layers=size.layers, width=size.width)
        for way in ways(size, optimizer):
            listed = partial(_run, options, size, optimizer, make)
            rates = way.rates(size.factors)
            while True:
                grid = [listed(way.at(rate), 0) for rate in rates]
                best = _best(figures, grid)
                further = best and _beyond(rates, best, len(size.factors))
                if not further:
                    break
                rates = sorted([*rates, further])
            found += grid
            if best:
                seeds = range(1, options.seeds or size.seeds)
                found += [listed(way.at(best), seed) for seed in seeds]
    return found


def _best(figures: Stored, grid: list[Run]) -> float | None:
    """The best rate of a grid; None where some of it is not known, or all of it diverged."""
    if not all(map(figures.has, grid)):
        return None
    keys = {run.key for run in grid}
    mine = [run for run in figures.runs if (run["task"], run["method"], run["seed"]) in keys]
    return next(iter(best_rates(mine, LOSS).values()), None)


def _beyond(rates: Sequence[float], best: float, first: int) -> float | None:
    """The next rate on the side of a best one at the edge, of a grid that may go on there."""
    if len(rates) == 1 or len(rates) >= first + FURTHER or best not in (rates[0], rates[-1]):
        return None
    return _rounded(best / APART if best == rates[0] else best * APART)


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


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


@dataclass(frozen=True)
class Way:
    """One way to size the batch, with an optimizer, at any learning rate."""

    name: str
    size: Size
    optimizer: str
    batch: int
    largest: int
    growth: dict[str, Any]

    def rates(self, factors: Sequence[float]) -> list[float]:
        """Those of the grid, rising."""
        middle = OPTIMIZERS[self.optimizer][1] * (self.batch / 32) ** 0.5
        return [_rounded(factor * middle) for factor in factors]

    def at(self, rate: float) -> Plan:
        """The run at a rate."""
        size, late = self.size, self.growth.get("rule") == "late"
        return Plan(
            f"{self.name}, lr {rate:g}",
            {**OPTIMIZERS[self.optimizer][0], "lr": rate},
            self.batch,
            size.samples,
            evaluate_every=max(1, size.samples // 20),
            growth=self.growth,
            max_batch=self.largest,
            shape="cosine",
            warmup=WARMUP,
            floor=FLOOR,
            on_growth=0.5 if self.growth and not late else 0.0,
            targets={LOSS: list(size.targets)},
            micro_batch=32,
            test_interval=INTERVAL,
        )


def ways(size: Size, optimizer: str) -> list[Way]:
    """Every way to size the batch."""
    small, large = size.smallest, size.largest
    sizes = (large // small).bit_length()
    name, metric = METRICS[optimizer]
    growing: dict[str, dict[str, Any]] = {
        "doubling": {"rule": "doubling", "every": size.samples // sizes},
        "late switch": {"rule": "late", "after": int(SWITCH * size.samples)},
        f"norm test, η = {size.eta:g}": {"rule": "norm", "eta": size.eta},
        f"{name}, η = {size.eta:g}": {**metric, "eta": size.eta},
    }
    return [Way(f"batch {b:,}", size, optimizer, b, b, {}) for b in size.fixed] + [
        Way(f"{way}, {small} to {large:,}", size, optimizer, small, large, growth)
        for way, growth in growing.items()
    ]


TEXT = """\
The next character of tiny shakespeare, nine tenths to train on; losses in nats per character. A
sample is a sequence of {tokens} characters, and every run takes {samples:,} of them. No published
counterpart.

Every way to size the batch has a grid of {rates} learning rates, a factor of {apart:g} apart, whose
middle is the optimizer's for a batch of 32 times √(B / 32), B the first batch. One seed runs the
grid, which goes on by up to {further} rates while the best is at its edge. The rate with the lowest
test loss at the end, after equal samples, is the way's own, and is run with further seeds; the
first seed, which has chosen, stays among them. An asterisk marks a rate that is still at the edge.
The test loss at the end, and not the steps to the
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
        apart=APART, further=FURTHER,
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


FINDINGS = """\
**No test saves seconds.** In the simulation the fewest to 2.5 are those of a fixed batch with every
optimizer at every scale, of 32 for AdamW and AdaGrad and of 128 for Muon; the best way with a test
takes 1.8 to 3.5 times as many. On one worker, here, the best test takes 108 % more seconds than the
best other way with AdamW and 29 % more with Muon. With AdaGrad the test in its metric is level with
the best other way; seconds of runs whose steps are the same, such as those of a batch of 8 and of
the late switch to 2.5, differ by up to 22 %.

**Steps are saved at equal samples, and a schedule saves them as well.** AdaGrad's test ends at 2.12
after 252 steps, where a batch of 8 ends at 2.10 after 640. Doubling ends at 2.11 after 248 steps
with AdamW, whose tests end at 2.09 and 2.10 after 381 and 330; with Muon at 1.91, where the norm
test ends at 1.89 after 285. With AdaGrad the tests are better than doubling by 0.1, with a standard
error of 0.07. The late switch makes 28 % fewer steps than a batch of 8, and ends higher by 0.05,
0.07 and 0.03; to 2.5, which comes before it, it is that batch.

**A test in the optimizer's own metric grows the batch sooner than the norm test** at the same η,
each at its own rate: to 2.5 it takes 16 % fewer steps with Adam's, 39 % fewer with AdaGrad's and
40 % fewer with the spectral norm. Adam's has the norm test's rate, AdaGrad's a third of it and the
spectral test three times it, so that part of the last two may be the rate's. With Adam's and
AdaGrad's it ends level with the norm test; the spectral test, whose average batch is 51, ends
between the fixed batches of 32 and 128, in loss as in steps.

The runs are a third of an epoch, in which at equal samples the smallest batch ends lowest with all
three. From 8 to 32 Muon loses 0.09, AdamW 0.14 and AdaGrad 0.25; from 8 to 128 they lose 0.39, 0.46
and 0.48. Whoever has many workers and this little time takes a batch of 32 or 128 from the start,
and the learning rate that belongs to it. Long runs, whose noise grows, are not in this study.
"""

EXPERIMENT = Experiment(
    NAME,
    "Which batch, with which optimizer, at which scale",
    45,
    runs,
    section,
    findings={"machine": FINDINGS},
)
