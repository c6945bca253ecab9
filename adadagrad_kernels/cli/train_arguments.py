"""The options of `train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from adadagrad_kernels.cli import quantities, rules, texts


def add_train_options(train: argparse.ArgumentParser) -> None:
    """Adds them in their groups."""
    _add_task(train.add_argument_group("what to train"))
    _add_batch(train.add_argument_group("batch size"))
    _add_run(train.add_argument_group("budget and memory"))
    _add_output(train.add_argument_group("output"))


def add_printing(group: argparse._ActionsContainer) -> None:
    """Adds what says how results are printed."""
    group.add_argument(
        "--json", action="store_true", help="print the summary as JSON instead of a table"
    )
    group.add_argument(
        "--quiet", action="store_true", help="no progress bar (there is none without a terminal)"
    )


def _add_task(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        choices=["digits", "mnist", "fashion-mnist"],
        default="digits",
        help="data set (default: %(default)s, which comes with scikit-learn)",
    )
    group.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder with the four idx .gz files of mnist or fashion-mnist, or one above it "
        "(DIR/mnist, DIR/MNIST/raw, ...)",
    )
    group.add_argument(
        "--model",
        choices=["logistic", "cnn"],
        default="cnn",
        help="logistic regression, or two 5 x 5 convolutions and a linear layer "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--optimizer",
        choices=["adagrad", "adagrad-norm", "adagrad-norm-rows", "sgd", "adam", "adamw"],
        default="adagrad",
        help="adagrad: one accumulator per coordinate; adagrad-norm: one in all; "
        "adagrad-norm-rows: one per output row, as in the paper's code; sgd, adam, adamw: torch's "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--lr",
        type=quantities.positive,
        metavar="LR",
        help="learning rate, constant (default: 0.008 for adagrad, on digits 0.08, 1.0 for "
        "adagrad-norm, 0.1 for adagrad-norm-rows and sgd, 0.001 for adam and adamw)",
    )
    group.add_argument(
        "--momentum",
        type=quantities.non_negative,
        default=0.0,
        metavar="M",
        help="for sgd (default: %(default)s)",
    )
    group.add_argument(
        "--weight-decay",
        type=quantities.non_negative,
        default=0.0,
        metavar="W",
        help="(default: %(default)s)",
    )


def _add_batch(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--test",
        choices=list(rules.TEST_CONSTANTS),
        metavar="TEST",
        help="when to grow the batch, see below: " + ", ".join(rules.TEST_CONSTANTS) + " "
        "(default: norm, or none with --schedule)",
    )
    for name, default in rules.DEFAULT_CONSTANTS.items():
        tests = [test for test, constants in rules.TEST_CONSTANTS.items() if name in constants]
        group.add_argument(
            f"--{name}",
            type=quantities.positive,
            metavar=name.upper(),
            help=f"constant of --test {', '.join(tests)} (default: {default}"
            + (", on digits 1.0)" if name == "eta" else ")"),
        )
    group.add_argument(
        "--schedule",
        type=rules.schedule,
        metavar="S",
        help="sizes by the samples seen instead of a test, see below: step:N, linear:N, cosine:N, "
        'plateau:N or milestones, "0:8 60K:64"',
    )
    group.add_argument(
        "--test-interval",
        type=quantities.count,
        default=1,
        metavar="STEPS",
        help="test every so many steps; those between cost no statistics (default: %(default)s)",
    )
    group.add_argument(
        "--smoothing",
        type=quantities.share,
        default=0.0,
        metavar="BETA",
        help="weight of the past in a running average of the statistics that the test reads "
        "(default: %(default)s, none)",
    )
    group.add_argument(
        "--growth-cap",
        type=quantities.factor,
        metavar="F",
        help="the batch becomes at most F times as large at once (default: no bound, or on digits "
        "1.1)",
    )
    group.add_argument(
        "--hysteresis",
        type=quantities.factor,
        default=1.0,
        metavar="F",
        help="grow only where the test asks for more than F times the batch (default: 1)",
    )
    group.add_argument(
        "--cooldown",
        type=quantities.count,
        default=0,
        metavar="STEPS",
        help="steps after a growth in which nothing is tested (default: %(default)s)",
    )
    group.add_argument(
        "--lr-rule",
        type=rules.learning_rate_rule,
        metavar="R",
        help="what a batch that grows does to the learning rate: linear, sqrt, or the factor for "
        "a doubled batch, such as AdaBatch's 0.75 (default: nothing)",
    )
    group.add_argument(
        "--batch-size",
        type=quantities.count,
        metavar="B",
        help="size of the first batch (default: 8, or what --schedule says)",
    )
    group.add_argument(
        "--max-batch",
        type=quantities.count,
        metavar="B",
        help="size no batch exceeds; from there on no test is made "
        "(default: the size of the training set, or the last one that --schedule says)",
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--samples",
        type=quantities.count,
        metavar="N",
        help="samples to train on in all, such as 60000, 60K or 6M "
        "(default: 10 times the training set)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the initial parameters and the order of the samples (default: %(default)s)",
    )
    group.add_argument(
        "--micro-batch",
        type=quantities.count,
        metavar="B",
        help="samples that pass through the model at once, at most (default: 512)",
    )
    group.add_argument(
        "--memory",
        type=quantities.memory,
        metavar="BYTES",
        help="memory a step may hold beyond model, optimizer and data, such as 64M or 1G: "
        "measured at the start, micro-batches are made smaller where needed (default: no bound). "
        "Where memory runs out anyway, they are halved and the step is repeated",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out",
        type=Path,
        default=Path("runs/train"),
        metavar="DIR",
        help="folder for metrics, checkpoint and result (default: %(default)s)",
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out from its checkpoint, bit for bit, or begin where there "
        "is none; the options must be those it began with, but for --samples: a larger one extends "
        "the run, and where it is not given the run's own is taken",
    )
    existing.add_argument(
        "--overwrite", action="store_true", help="begin anew although --out holds a run"
    )
    group.add_argument(
        "--checkpoint-every",
        type=quantities.interval,
        default=quantities.Interval(seconds=60.0),
        metavar="N|Ts",
        help="a checkpoint every N samples (1M) or T seconds (300s), and at the end (default: 60s)",
    )
    group.add_argument(
        "--evaluate-every",
        type=quantities.count,
        metavar="N",
        help="evaluate on the test set every N samples (default: a hundredth of --samples, or as "
        "many as one evaluation takes, where that is more)",
    )
    group.add_argument(
        "--log-every",
        type=quantities.count,
        metavar="N",
        help="a line in metrics.jsonl every N samples, and whenever the batch grows "
        "(default: a thousandth of --samples)",
    )
    group.add_argument(
        "--writer",
        type=lambda text: quantities.names(text, texts.WRITERS),
        default=[],
        metavar="W,...",
        help="where the metrics go beside metrics.jsonl: csv (metrics.csv), tensorboard "
        "(tensorboard/), wandb (wandb/; WANDB_MODE=offline needs no account), jsonl (nothing more)",
    )
    add_printing(group)
