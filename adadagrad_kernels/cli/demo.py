"""`adadagrad-kernels demo`: adaptive and fixed batches on the same samples."""

from __future__ import annotations

import argparse
import json
import statistics
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adadagrad_kernels.cli.lock import FolderLock
from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.cli.table import format_table
from adadagrad_kernels.files import replace_file
from adadagrad_kernels.optional import require
from adadagrad_kernels.report.figures import overview
from adadagrad_kernels.report.runs import Run, group
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.writers.metrics_file import MetricsFile, strict

EPOCHS = 12
EVALUATIONS = 20
LINES = 200
SMALLEST, LARGEST = 8, 1024

# Lets the batch grow over the whole budget; with the paper's 0.1 it reaches its cap within three
# steps.
ETA = 1.0


@dataclass(frozen=True)
class Method:
    """One way to spend the samples."""

    name: str
    optimizer: str
    lr: float
    batch_size: int = SMALLEST
    adaptive: bool = True

    def config(self, samples: int, seed: int) -> RunConfig:
        """Returns the run of this method with a budget and a seed."""
        return RunConfig(
            data="digits",
            model="cnn",
            optimizer=self.optimizer,
            lr=self.lr,
            test="norm" if self.adaptive else "none",
            eta=ETA if self.adaptive else None,
            batch_size=self.batch_size,
            max_batch=LARGEST if self.adaptive else self.batch_size,
            samples=samples,
            evaluate_every=max(1, samples // EVALUATIONS),
            log_every=max(1, samples // LINES),
            seed=seed,
        )


# Each learning rate is the best of a grid in factors of two, by the training loss at the end of
# this budget in the mean over seeds 10 to 12, which are not the demonstration's.
METHODS = (
    Method("AdAdaGrad", "adagrad", 0.16),
    Method("AdAdaGrad-Norm", "adagrad-norm", 1.0),
    Method("AdaSGD", "sgd", 0.8),
    Method(f"AdaGrad, batch {SMALLEST:,}", "adagrad", 0.16, SMALLEST, adaptive=False),
    Method(f"AdaGrad, batch {LARGEST:,}", "adagrad", 0.02, LARGEST, adaptive=False),
)


def run(arguments: argparse.Namespace) -> int:
    """Runs every method with every seed, draws the picture and prints the table."""
    out: Path = arguments.out
    require("matplotlib.figure", "the picture")  # said before any training
    data = load_data("digits", None)
    samples = arguments.samples or EPOCHS * len(data.train)
    with FolderLock(out):
        rows, text = _run(arguments, data, samples)
    print(text if arguments.json else _report(rows, samples, arguments.seeds, data, out))
    return 0


def _run(
    arguments: argparse.Namespace, data: Data, samples: int
) -> tuple[list[dict[str, Any]], str]:
    """Trains, and writes the files; returns the rows of the table, and the summary's text."""
    out: Path = arguments.out
    results, runs = [], []
    with MetricsFile(out / "metrics.jsonl") as metrics, _one_thread():
        _warm_up(data)
        for seed in range(arguments.seeds):
            for method in METHODS:
                run = Run(method.name, str(seed))
                runs.append(run)
                trainer = Trainer(method.config(samples, seed), data)

                def record(line: dict[str, Any], run: Run = run) -> None:
                    metrics.write(line)
                    run.add(line)

                results.append(_train(method, trainer, record, quiet=arguments.quiet))
    replace_file(out / "demo.png", [overview(group(runs))])
    rows = [_mean(method, results) for method in METHODS]
    text = json.dumps(strict({"methods": rows, "runs": results}), indent=2) + "\n"
    replace_file(out / "summary.json", [text.encode()])
    return rows, text


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch to one thread: steps of a millisecond are too short to share.

    On a busy machine, threads that wait for each other made them ten times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _warm_up(data: Data) -> None:
    """Lets torch load and allocate, so that the first run is not timed with it."""
    trainer = Trainer(METHODS[0].config(100, seed=0), data)
    for _ in trainer.run(lambda line: None, Progress("", 100, quiet=True)):
        pass


def _train(
    method: Method, trainer: Trainer, record: Callable[[dict[str, Any]], None], *, quiet: bool
) -> dict[str, Any]:
    label = {"run": method.name, "seed": trainer.config.seed}
    progress = Progress(f"{method.name:<16}", trainer.config.samples, quiet=quiet)
    record({**label, **trainer.summary(), "batch/used": method.batch_size})
    for _ in trainer.run(lambda line: record({**label, **line}), progress):
        pass
    progress.close()
    summary = trainer.summary()
    record({**label, **summary, "end": True})
    return {**label, "lr": method.lr, **summary}


def _mean(method: Method, results: list[dict[str, Any]]) -> dict[str, Any]:
    own = [result for result in results if result["run"] == method.name]
    names = ("steps", "batch/average", "train_loss", "test_loss", "test_accuracy", "seconds")
    mean = {name: statistics.fmean(result[name] for result in own) for name in names}
    accuracies = [result["test_accuracy"] for result in own]
    share = sum(result["statistics_seconds"] for result in own) / sum(
        result["seconds"] for result in own
    )
    return {
        "run": method.name,
        "lr": method.lr,
        "adaptive": method.adaptive,
        **mean,
        "test_accuracy_deviation": statistics.stdev(accuracies) if len(own) > 1 else None,
        "statistics_share": share,
    }


def _report(rows: list[dict[str, Any]], samples: int, seeds: int, data: Data, out: Path) -> str:
    header = ["", "lr", "steps", "avg. batch", "final loss", "test acc.", "seconds", "statistics"]
    table = format_table(
        header,
        [
            [
                row["run"],
                f"{row['lr']:g}",
                f"{row['steps']:,.0f}",
                f"{row['batch/average']:,.1f}",
                f"{row['train_loss']:.4f}",
                _accuracy(row),
                f"{row['seconds']:.1f}",
                f"{row['statistics_share']:.0%}" if row["adaptive"] else "-",
            ]
            for row in rows
        ],
    )
    notes = (
        f"Each run takes {samples:,} samples of {len(data.train):,} training images. The first "
        f"three grow their batch from {SMALLEST} to at most {LARGEST:,} by the norm test with "
        f"eta = {ETA:g}. The loss is that of the whole training set; statistics are a share of the "
        "seconds. Learning rates: the best of a short search with other seeds."
    )
    if seeds > 1:
        notes += f" Means of {seeds} seeds, ± their standard deviation."
    files = "\n".join(str(out / name) for name in ("demo.png", "metrics.jsonl", "summary.json"))
    told = "\n\n".join(textwrap.fill(text, 88) for text in (_meaning(rows), notes))
    return f"{table}\n\n{told}\n\n{files}"


def _meaning(rows: list[dict[str, Any]]) -> str:
    """What the rows show, in their own numbers."""
    adaptive, *_ = (row for row in rows if row["adaptive"])
    small, large = (row for row in rows if not row["adaptive"])

    def reached(row: dict[str, Any]) -> str:
        return f"{row['steps']:,.0f} steps to {row['test_accuracy'] * 100:.1f} %"

    return (
        f"Adaptive batches save steps, not samples: with equal samples {adaptive['run']} took "
        f"{reached(adaptive)}, a fixed batch of {SMALLEST} {reached(small)}, and one of "
        f"{LARGEST:,} {reached(large)}. They pay where a step of many samples takes little longer "
        "than one of few."
    )


def _accuracy(row: dict[str, Any]) -> str:
    text = f"{row['test_accuracy'] * 100:.1f}"
    if row["test_accuracy_deviation"] is not None:
        text += f" ± {row['test_accuracy_deviation'] * 100:.1f}"
    return text + " %"
