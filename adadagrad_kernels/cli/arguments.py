"""The options of every command, and the help that explains them."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path

from adadagrad_kernels.cli import texts
from adadagrad_kernels.cli.train_arguments import add_printing, add_train_options
from adadagrad_kernels.training import quantities


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
        dest="command", required=True, metavar="{info,train,demo,report,doctor}"
    )
    _add_info(commands)
    _add_train(commands)
    _add_demo(commands)
    _add_report(commands)
    _add_doctor(commands)
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
        "(scalar, avx2, avx512, neon) choose by name.",
        allow_abbrev=False,
    )
    info.add_argument("--json", action="store_true", help="print one JSON object")


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser(
        "train",
        help="train on digits, MNIST, or data and a model of yours with an adaptive batch size",
        description=texts.TRAIN,
        epilog=texts.train_epilog(),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    add_train_options(train)


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
    add_printing(demo)


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


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="find what goes wrong in a trainer, without an error, as its batch grows",
        description=texts.DOCTOR,
        epilog=texts.doctor_epilog(),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    doctor.add_argument(
        "path",
        nargs="?",
        metavar="MODULE:FUNCTION",
        help="a function of yours, without arguments, that returns the trainer, or several things "
        "in a tuple; left out: the installation is looked at",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
