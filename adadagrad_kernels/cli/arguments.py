"""The options of every command, and the help that explains them."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path

from adadagrad_kernels.cli import texts
from adadagrad_kernels.cli.train_arguments import add_printing, add_train_options
from adadagrad_kernels.training import quantities
from adadagrad_kernels.training.critical_batch import gain_of


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
        dest="command",
        required=True,
        metavar="{info,train,demo,report,critical-batch,probe,plan,doctor}",
    )
    _add_info(commands)
    _add_train(commands)
    _add_demo(commands)
    _add_report(commands)
    _add_critical_batch(commands)
    _add_probe(commands)
    _add_plan(commands)
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


def _sizes(text: str) -> list[int]:
    """Reads batch sizes separated by commas, each once, in rising order."""
    return sorted({quantities.count(part.strip()) for part in text.split(",")})


def _rules(text: str) -> list[str]:
    """Reads learning-rate rules separated by commas, each once."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",")))
    try:
        for rule in found:
            gain_of(rule, 1.0)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return found


def _add_critical_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "critical-batch",
        help="measure from which size on a larger batch saves few steps, by branches of a run",
        description=texts.CRITICAL_BATCH,
        epilog=texts.CRITICAL_BATCH_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a run of train, with its checkpoint"
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for branches, result and picture (default: critical-batch in RUN)",
    )
    command.add_argument(
        "--sizes",
        type=_sizes,
        metavar="B,...",
        help="batch sizes (default: powers of two from a quarter to 16 times the run's own)",
    )
    command.add_argument(
        "--rules",
        type=_rules,
        default=["none", "sqrt", "linear"],
        metavar="R,...",
        help="what another size does to the learning rate: none, sqrt, linear, or one of them with "
        "a factor at every size, linear*4 (default: none,sqrt,linear, and the best of them at "
        "every size)",
    )
    command.add_argument(
        "--samples",
        type=quantities.count,
        metavar="N",
        help="samples of a branch of the run's own size, whose loss at the end is the target "
        "(default: those of 64 steps)",
    )
    command.add_argument(
        "--most",
        type=quantities.factor,
        default=8.0,
        metavar="F",
        help="times --samples at which a branch gives up (default: %(default)g)",
    )
    command.add_argument(
        "--seeds",
        type=quantities.count,
        default=3,
        metavar="K",
        help="branches of every size and rule, with their samples in other orders "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--level",
        type=quantities.confidence,
        default=0.95,
        metavar="P",
        help="level of confidence of the intervals (default: %(default)s)",
    )
    command.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="as train has it, for the run's data"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="begin anew although --out holds branches"
    )
    add_printing(command)


def _add_probe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    probe = commands.add_parser(
        "probe",
        help="measure how long steps of several sizes take here, for plan",
        description=texts.PROBE,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    probe.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a run of train: its model, data, optimizer"
    )
    probe.add_argument(
        "--out",
        type=Path,
        default=Path("hardware.json"),
        metavar="FILE",
        help="the table (default: %(default)s)",
    )
    probe.add_argument(
        "--sizes",
        type=_sizes,
        metavar="B,...",
        help="batch sizes (default: powers of two up to 1024 or the training set)",
    )
    probe.add_argument(
        "--latency",
        type=quantities.non_negative,
        metavar="S",
        help="seconds of a message between two workers (default: measured where several run; 0)",
    )
    probe.add_argument(
        "--bandwidth",
        type=quantities.positive,
        metavar="BYTES",
        help="bytes per second between two workers (default: measured where several run; no limit)",
    )
    probe.add_argument("--data-dir", type=Path, metavar="DIR", help="as train has it")
    probe.add_argument("--json", action="store_true", help="print the table as JSON")


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="what runs would take with other numbers of workers, and whether adapting pays",
        description=texts.PLAN,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    plan.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="as report has them: folders or metrics.jsonl, NAME=RUN",
    )
    plan.add_argument(
        "--hardware", type=Path, required=True, metavar="FILE", help="table that probe wrote"
    )
    plan.add_argument(
        "--target",
        type=quantities.positive,
        metavar="LOSS",
        help="loss to reach (default: the lowest that all runs reach)",
    )
    plan.add_argument(
        "--workers",
        type=_sizes,
        default=[1, 2, 8, 64, 512],
        metavar="W,...",
        help="numbers of workers (default: 1,2,8,64,512)",
    )
    plan.add_argument("--json", action="store_true", help="print the forecasts as JSON")


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
