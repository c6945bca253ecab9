"""A small GPT with AdAdam, Adam with the norm test, against fixed batches and doubling.

No paper's experiment: the published ones on language models (Lau et al., arXiv 2412.21124) are of
300 million parameters and more. The question is theirs: does the norm test help a transformer?
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.reproduce.harness import training_run
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import Experiment, Options, Run, Stored
from benchmarks.reproduce.tables import paragraph, short, training_table
from benchmarks.reproduce.tasks import text

NAME = "gpt_adadam"


@dataclass(frozen=True)
class Size:
    """The model, its budget in sequences, and the grid."""

    tokens: int
    layers: int
    width: int
    samples: int
    target: float
    smallest: int
    largest: int
    etas: tuple[float, ...]
    fixed: tuple[int, ...]
    seeds: int
    threads: int
    adam: dict[str, Any] = field(
        default_factory=lambda: {"kind": "adam", "lr": 1e-3, "betas": [0.9, 0.95]}
    )


SIZES = {
    "smoke": Size(16, 1, 16, 64, 3.0, 4, 16, (1.0,), (8,), 1, 1),
    "machine": Size(64, 4, 128, 9_600, 2.6, 8, 256, (0.5, 0.9), (8, 32, 128), 2, 2),
    "paper": Size(256, 6, 384, 400_000, 1.6, 8, 1024, (0.15, 0.25, 0.5, 0.9), (8, 32, 128, 512),
                  3, 2),
}  # fmt: skip


def runs(options: Options) -> list[Run]:
    """Every method and seed."""
    size = SIZES[options.size]
    make = text(options, tokens=size.tokens, layers=size.layers, width=size.width)
    return [
        training_run(
            f"GPT, {size.layers} layers of {size.width}",
            make,
            plan,
            seed,
            options,
            threads=size.threads,
            data=f"sequences of {size.tokens}",
        )
        for plan in plans(size)
        for seed in range(options.seeds or size.seeds)
    ]


def plans(size: Size) -> list[Plan]:
    """AdAdam with every constant, every fixed batch, and doubling."""
    common: dict[str, Any] = {
        "optimizer": size.adam,
        "samples": size.samples,
        "evaluate_every": max(1, size.samples // 20),
        "warmup": 0.05,
        "targets": {"test_loss": [size.target]},
        "micro_batch": 32,
    }
    doublings = (size.largest // size.smallest).bit_length()
    return [
        *(
            Plan(f"AdAdam, η = {eta:g}", batch_size=size.smallest, max_batch=size.largest,
                 growth={"rule": "norm", "eta": eta}, **common)
            for eta in size.etas
        ),
        *(Plan(f"Adam, batch {batch}", batch_size=batch, **common) for batch in size.fixed),
        Plan(f"Adam, doubling {size.smallest} to {size.largest}", batch_size=size.smallest,
             max_batch=size.largest,
             growth={"rule": "doubling", "every": size.samples // doublings}, **common),
    ]  # fmt: skip


TEXT = """\
The next character of tiny shakespeare, nine tenths to train on; losses in nats per character. Adam
with lr {lr:g}, constant after a warm-up over 5 % of the budget. A sample is a sequence of
{tokens} characters. No published counterpart: the papers' models (arXiv 2412.21124) have 300
million parameters and more, so the question is theirs and the figures stand alone.
"""


def section(figures: Stored) -> list[str]:
    """Tokens and seconds to a target."""
    settings = figures.runs[0]["settings"]
    plan, tokens = settings["plan"], int(settings["data"].split()[-1])
    (target,) = plan["targets"]["test_loss"]
    lines = paragraph(TEXT, lr=plan["optimizer"]["lr"], tokens=tokens)
    finals = [("training loss", "train_loss", short), ("test loss", "test_loss", short)]
    return lines + training_table(figures.runs, "test_loss", target, finals, tokens=tokens)


FINDINGS = """\
At this size the answer is no. In tokens and in seconds to the target the smallest batch comes
first, together with the doubling that starts from it. The norm test follows: at η = 0.9 it takes
the seconds of the fixed batch of 32; at η = 0.5 it has grown too far before the target is met.
With equal tokens the smallest batch ends lowest, because it makes the most steps, and on two cores
a large batch is only 1.4 times as fast per token. Where a large batch takes no longer than a small
one, steps decide the seconds, and in steps the norm test at η = 0.9 is ahead of the smallest batch
and of the doubling, and behind the fixed batches of 32 and 128.
"""

EXPERIMENT = Experiment(NAME, "A small GPT with AdAdam", 9.5, runs, section, {"machine": FINDINGS})
