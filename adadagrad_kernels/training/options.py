"""The options of a run, a row each.

``--help``, the fields of a run's configuration, the check that an option is read at all and the
table of docs/reference/cli.md are made from these rows.
"""

from __future__ import annotations

from pathlib import Path

from adadagrad_kernels.training import quantities, readers
from adadagrad_kernels.training.catalogue import (
    CONSTANTS,
    OPTIMIZERS,
    SETTINGS,
    TESTS,
    takers_of,
    tests_with,
)
from adadagrad_kernels.training.data_sets import DATA_SETS
from adadagrad_kernels.training.models import MODELS
from adadagrad_kernels.training.option import BATCH_SIZE, BUDGET, OUTPUT, TASK, Option

#: Samples that pass at once: where the paper's CNN on MNIST is fastest on a CPU; larger ones leave
#: its cache.
MICRO_BATCH = 512
#: The first batch, and passes over the training set, where nothing else is said.
BATCH, EPOCHS = 8, 10


def _rates() -> str:
    """The default learning rates, those that are equal together."""
    of_rate: dict[float, list[str]] = {}
    for name, kind in OPTIMIZERS.items():
        of_rate.setdefault(kind.lr, []).append(name)
    parts = []
    for rate, names in of_rate.items():
        parts.append(f"{rate} for {' and '.join(names)}")
        for data, row in DATA_SETS.items():
            parts += [f"on {data} {row.lr[name]}" for name in names if name in row.lr]
    return ", ".join(parts)


def _constant(name: str) -> Option:
    others = [f", on {d} {r.constants[name]}" for d, r in DATA_SETS.items() if name in r.constants]
    return Option(
        name,
        BATCH_SIZE,
        f"constant of --test {', '.join(tests_with(name))}",
        quantities.count if isinstance(CONSTANTS[name], int) else quantities.positive,
        shown=f"{CONSTANTS[name]}{''.join(others)}",
        metavar="N" if isinstance(CONSTANTS[name], int) else name.upper(),
    )


def _setting(name: str, meaning: str, metavar: str) -> Option:
    takers = takers_of(name)
    read = quantities.share if name == "beta2" else quantities.non_negative
    return Option(
        name, TASK, f"{meaning}, for {', '.join(takers)}", read, SETTINGS[name], metavar=metavar
    )


def _growth_caps() -> str:
    caps = [f", or on {d} {r.growth_cap}" for d, r in DATA_SETS.items() if r.growth_cap is not None]
    return "no bound" + "".join(caps)


_OPTIMIZER_HELP = "; ".join(
    [f"{name}: {kind.help}" for name, kind in OPTIMIZERS.items() if kind.help != "torch's"]
    + [", ".join(n for n, kind in OPTIMIZERS.items() if kind.help == "torch's") + ": torch's"]
)

OPTIONS = (
    Option(
        "data",
        TASK,
        f"data set: {', '.join(DATA_SETS)}, or a function of yours, see below",
        readers.name_or_path(DATA_SETS),
        "digits",
        "digits, which comes with scikit-learn",
        metavar="DATA",
    ),
    Option(
        "data_dir",
        TASK,
        "folder with the four idx .gz files of mnist or fashion-mnist, or one above it "
        "(DIR/mnist, DIR/MNIST/raw, ...); a function of yours gets it too",
        Path,
        shown="",
        metavar="DIR",
        defines=False,
    ),
    Option(
        "model",
        TASK,
        f"{', '.join(MODELS)}: logistic regression, or two 5 x 5 convolutions and a linear layer; "
        "or a function of yours, see below",
        readers.name_or_path(MODELS),
        "cnn",
        metavar="MODEL",
    ),
    Option(
        "optimizer",
        TASK,
        _OPTIMIZER_HELP,
        default="adagrad",
        metavar="OPTIMIZER",
        choices=tuple(OPTIMIZERS),
    ),
    Option("lr", TASK, "learning rate, constant", quantities.positive, None, _rates(), "LR"),
    _setting("momentum", "weight of the past in its steps", "M"),
    _setting("beta2", "weight of the past in the average of squares", "BETA"),
    _setting("weight_decay", "as torch's optimizers have it", "W"),
    Option(
        "test",
        BATCH_SIZE,
        f"when to grow the batch, see below: {', '.join(TESTS)}",
        shown="norm, or none with --schedule",
        metavar="TEST",
        choices=tuple(TESTS),
    ),
    *(_constant(name) for name in CONSTANTS),
    Option(
        "schedule",
        BATCH_SIZE,
        "sizes by the samples seen instead of a test, see below: "
        f'{", ".join(readers.shape_texts())} or milestones, "0:8 60K:64"',
        readers.schedule,
        shown="",
        metavar="S",
    ),
    Option(
        "test_interval",
        BATCH_SIZE,
        "test every so many steps; those between cost no statistics",
        quantities.count,
        1,
        metavar="STEPS",
        read_by=("test",),
    ),
    Option(
        "smoothing",
        BATCH_SIZE,
        "weight of the past in a running average of the statistics that the test reads",
        quantities.share,
        0.0,
        "0.0, none",
        "BETA",
        read_by=("test",),
    ),
    Option(
        "growth_cap",
        BATCH_SIZE,
        "the batch becomes at most F times as large at once",
        quantities.factor,
        None,
        _growth_caps(),
        "F",
        read_by=("test", "schedule"),
    ),
    Option(
        "hysteresis",
        BATCH_SIZE,
        "grow only where the test asks for more than F times the batch",
        quantities.factor,
        1.0,
        "1",
        "F",
        read_by=("test",),
    ),
    Option(
        "cooldown",
        BATCH_SIZE,
        "steps after a growth in which nothing is tested",
        quantities.count,
        0,
        metavar="STEPS",
        read_by=("test",),
    ),
    Option(
        "error_bars",
        BATCH_SIZE,
        "level of confidence, such as 0.95, of intervals in the metrics: of the noise, the noise "
        "scale and, with --test norm, noise-scale, inner-product and augmented, the size; measures "
        "inner products at every test",
        quantities.confidence,
        None,
        "none",
        "LEVEL",
        read_by=("test",),
    ),
    Option(
        "lr_rule",
        BATCH_SIZE,
        "what a batch that grows does to the learning rate: linear, sqrt, or the factor for "
        "a doubled batch, such as AdaBatch's 0.75",
        readers.learning_rate_rule,
        None,
        "nothing",
        "R",
        read_by=("test", "schedule"),
    ),
    Option(
        "batch_size",
        BATCH_SIZE,
        "size of the first batch",
        quantities.count,
        shown=f"{BATCH}, or what --schedule says",
        metavar="B",
    ),
    Option(
        "max_batch",
        BATCH_SIZE,
        "size no batch exceeds; from there on no test is made",
        quantities.count,
        shown="the size of the training set, or the last one that --schedule says",
        metavar="B",
    ),
    Option(
        "samples",
        BUDGET,
        "samples to train on in all, such as 60000, 60K or 6M",
        quantities.count,
        shown=f"{EPOCHS} times the training set",
        metavar="N",
    ),
    Option(
        "seed",
        BUDGET,
        "of the initial parameters and the order of the samples",
        int,
        0,
        metavar="N",
    ),
    Option(
        "micro_batch",
        BUDGET,
        "samples that pass through the model at once, at most",
        quantities.count,
        shown=f"{MICRO_BATCH}",
        metavar="B",
    ),
    Option(
        "memory",
        BUDGET,
        "memory a step may hold beyond model, optimizer and data, such as 64M or 1G: "
        "measured at the start, micro-batches are made smaller where needed. "
        "Where memory runs out anyway, they are halved and the step is repeated",
        quantities.memory,
        shown="no bound",
        metavar="BYTES",
    ),
    Option(
        "evaluate_every",
        OUTPUT,
        "evaluate on the test set every N samples",
        quantities.count,
        shown="a hundredth of --samples, or as many as one evaluation takes, where that is more",
        metavar="N",
    ),
    Option(
        "log_every",
        OUTPUT,
        "a line in metrics.jsonl every N samples, and whenever the batch grows",
        quantities.count,
        shown="a thousandth of --samples",
        metavar="N",
    ),
)
