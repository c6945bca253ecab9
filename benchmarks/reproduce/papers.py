"""All experiments, and the page of their figures."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from benchmarks.reproduce import commands, page
from benchmarks.reproduce.results import Experiment

#: Their files, in the order of the page.
NAMES = (
    "mnist_adadagrad",
    "cifar_adadagrad",
    "rate",
    "divebatch",
    "large_batch_adagrad",
    "gpt_adadam",
    "gpt_schedules",
    "generalization",
    "adabatchgrad",
    "sparse_adabatch",
    "metric_tests",
    "normalization_noise",
)


def experiments() -> list[Experiment]:
    """All of them."""
    return [importlib.import_module(f"benchmarks.reproduce.{name}").EXPERIMENT for name in NAMES]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not there yet and write the page; 1 where data were missing."""
    parser = commands.parser("reproduce")
    everything = experiments()
    minutes = ", ".join(f"{each.name} {each.minutes:g}" for each in everything)
    parser.epilog = f"expected minutes at machine size, on two cores: {minutes}"
    parser.add_argument("--page-only", action="store_true", help="write the page, run nothing")
    given = parser.parse_args(arguments)
    options = commands.options_of(given)
    complete = True
    if not given.page_only:
        for each in everything:
            complete &= commands.run(each, options)
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"written: {page.write(everything, options.folder)}")
    return 0 if complete else 1
