"""The options of every command, and the help that explains them."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path

from adadagrad_kernels.cli import quantities, texts


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and leaves a column for long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of `adadagrad-kernels`."""
    parser = argparse.ArgumentParser(
        prog="adadagrad-kernels",
        description=texts.DESCRIPTION,
        epilog=texts.EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{info,train,demo,report}"
    )
    _add_info(commands)
    _add_train(commands)
    _add_demo(commands)
    _add_report(commands)
    return parser


def _version() -> str:
    try:
        return f"adadagrad-kernels {metadata.version('adadagrad-kernels')}"
    except metadata.PackageNotFoundError:
        return "adadagrad-kernels (not installed, run from its source)"


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    info = commands.add_parser(
        "info",
        help="versions, backends, instruction sets, threads",
        description="Says what can run here: versions, backends and why one is missing, "
        "instruction sets and which is active, threads, OpenMP runtimes in the process.",
        epilog="ADADAGRAD_KERNELS_BACKEND (auto, cpu, reference) and ADADAGRAD_KERNELS_ISA "
        "(scalar, avx2, avx512) choose by name.",
        allow_abbrev=False,
    )
    info.add_argument("--json", action="store_true", help="print one JSON object")


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train on digits, MNIST or Fashion-MNIST with an adaptive batch size",
        description=texts.TRAIN,
        epilog=texts.TRAIN_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    _add_task(train.add_argument_group("what to train"))
    _add_batch(train.add_argument_group("batch size"))
    _add_run(train.add_argument_group("budget and memory"))
    _add_output(train.add_argument_group("output"))


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
        help="learning rate, constant (default: 0.008 for adagrad, 1.0 for adagrad-norm, 0.1 for "
        "adagrad-norm-rows and sgd, 0.001 for adam and adamw)",
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
        choices=["norm", "inner-product", "augmented", "coordinate", "none"],
        default="norm",
        help="when to grow the batch, see below (default: %(default)s)",
    )
    for name, default, users in (
        ("eta", 0.1, "norm and coordinate"),
        ("theta", 0.5, "inner-product and augmented"),
        ("nu", 1.0, "augmented"),
    ):
        group.add_argument(
            f"--{name}",
            type=quantities.positive,
            metavar=name.upper(),
            help=f"constant of the tests {users} (default: {default})"
            if " " in users
            else f"constant of the test {users} (default: {default})",
        )
    group.add_argument(
        "--test-interval",
        type=quantities.count,
        default=1,
        metavar="STEPS",
        help="test every so many steps; those between cost no statistics (default: %(default)s)",
    )
    group.add_argument(
        "--batch-size",
        type=quantities.count,
        default=8,
        metavar="B",
        help="size of the first batch (default: %(default)s)",
    )
    group.add_argument(
        "--max-batch",
        type=quantities.count,
        metavar="B",
        help="size no batch exceeds; from there on no test is made "
        "(default: the size of the training set)",
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
        help="samples that pass through the model at once, at most (default: 512; with statistics, "
        "as many as have per-sample gradients of 16 MiB together)",
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
        "is none; the options must be those it began with",
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
        help="evaluate on the test set every N samples (default: a hundredth of --samples)",
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
    _add_printing(group)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="compare adaptive and fixed batches on scikit-learn's digits",
        description=texts.DEMO,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    demo.add_argument(
        "--samples",
        type=quantities.count,
        metavar="N",
        help="budget of each run (default: 12 times the training set)",
    )
    demo.add_argument(
        "--seeds",
        type=quantities.count,
        default=1,
        metavar="K",
        help="runs per method, with seeds 0 to K-1; the table shows their mean "
        "(default: %(default)s)",
    )
    _add_printing(demo)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser(
        "report",
        help="make a page and pictures from the metrics of runs",
        description=texts.REPORT,
        epilog=texts.REPORT_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    report.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder in which train or demo wrote, or its metrics.jsonl; NAME=RUN gives it a name",
    )
    report.add_argument(
        "--out",
        type=Path,
        default=Path("runs/report"),
        metavar="DIR",
        help="folder for the page and the pictures (default: %(default)s)",
    )
    report.add_argument(
        "--title",
        default="Adaptive batch sizes",
        metavar="T",
        help="heading of the page (default: %(default)s)",
    )
    report.add_argument(
        "--json", action="store_true", help="print the results as JSON instead of a table"
    )


def _add_printing(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--json", action="store_true", help="print the summary as JSON instead of a table"
    )
    group.add_argument(
        "--quiet", action="store_true", help="no progress bar (there is none without a terminal)"
    )
