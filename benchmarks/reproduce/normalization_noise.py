"""The noise scale of a GPT's normalisation layers alone, beside that of all parameters.

Gray, Tiwari, Bergsma, Hestness, arXiv 2411.00999: in transformers the two are so close to
proportional that the layers with the fewest parameters tell the critical batch. Measured on the
same batches of one run, and what either costs, in turns.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels import GradientStatistics, is_normalization, layer_statistics
from adadagrad_kernels.averages import RunningAverage
from benchmarks.measuring.interleaved import Spread, ratio, rounds_of_seconds
from benchmarks.reproduce.harness import using_threads
from benchmarks.reproduce.results import Experiment, Options, Run, Stored
from benchmarks.reproduce.tables import NONE, paragraph, table
from benchmarks.reproduce.tasks import Task, sequence_loss, text

NAME = "normalization_noise"
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / f"{NAME}.png"
#: Weight of the past in the averages of V and |G|², whose ratio is the noise scale.
BETA = 0.9


@dataclass(frozen=True)
class Size:
    """The model, the run, and how often it is measured and timed."""

    tokens: int
    layers: int
    width: int
    batch: int
    steps: int
    every: int
    rounds: int
    seeds: int
    lr: float = 1e-3


SIZES = {
    "smoke": Size(16, 1, 16, 8, 30, 2, 3, 1),
    "machine": Size(64, 4, 128, 32, 600, 4, 21, 2),
    "paper": Size(256, 6, 384, 64, 10_000, 10, 41, 3),
}


def runs(options: Options) -> list[Run]:
    """A run of every seed."""
    size = SIZES[options.size]
    make = text(options, tokens=size.tokens, layers=size.layers, width=size.width)
    threads = options.threads or 1
    settings = {"threads": threads, "size": asdict(size), "beta": BETA}

    def of(seed: int) -> Run:
        def measure() -> dict[str, Any]:
            with using_threads(threads):
                return measured(make(), size, seed)

        return Run(f"GPT, {size.layers} layers of {size.width}", "Adam", seed, settings, measure)

    return [of(seed) for seed in range(options.seeds or size.seeds)]


def measured(task: Task, size: Size, seed: int) -> dict[str, Any]:
    """Both noise scales over a run, and the ratios of a step's seconds at its end."""
    torch.manual_seed(seed)
    model = task.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=size.lr, betas=(0.9, 0.95))
    batches = _batches(task, size.batch, seed)
    sources = {
        "all": layer_statistics(model),
        "norms": layer_statistics(model, only=is_normalization),
    }
    scales = {name: _Scale() for name in sources}
    curve: list[dict[str, float]] = []
    for step in range(size.steps):
        inputs, targets = next(batches)
        point: dict[str, float] = {"samples": step * size.batch}
        for name, source in sources.items():
            if step % size.every:
                continue
            optimizer.zero_grad()
            with source:
                sequence_loss(model(inputs), targets).backward()
                point[name] = scales[name].add(source.statistics())
        if not step % size.every:
            curve.append(point)
        optimizer.zero_grad()
        sequence_loss(model(inputs), targets).backward()
        optimizer.step()
    # What averages of a few steps say is left out, and what is not known yet.
    settled = curve[len(curve) // 10 :]
    known = [p for p in settled if math.isfinite(p["all"]) and math.isfinite(p["norms"])]
    pairs = [[p[name] for p in known] for name in ("norms", "all")]
    logs = [[math.log(value) for value in values] for values in pairs]
    share = sum(p.numel() for m in model.modules() if is_normalization(m) for p in m.parameters())
    return {
        "curve": [{name: float(f"{v:.5g}") for name, v in point.items()} for point in curve],
        "points": len(known),
        "of": len(settled),
        "correlation": statistics.correlation(*pairs) if len(known) > 2 else math.nan,
        "correlation_of_logarithms": statistics.correlation(*logs) if len(known) > 2 else math.nan,
        "ratio": statistics.median(a / b for a, b in zip(*pairs, strict=True))
        if known
        else math.nan,
        "parameters": share / sum(p.numel() for p in model.parameters()),
        "cost": _cost(model, *next(batches), size.rounds),
    }


class _Scale:
    """The noise scale of averages of its two parts."""

    def __init__(self) -> None:
        self._noise, self._signal = RunningAverage(BETA), RunningAverage(BETA)

    def add(self, record: GradientStatistics | None) -> float:
        """With one more batch; infinite where the signal is not above 0."""
        assert record is not None
        variance = record.variance_norm
        noise = self._noise.add(variance)
        signal = self._signal.add(record.mean_sq_norm - variance / record.batch_size)
        return noise / signal if signal > 0.0 else math.inf


def _batches(task: Task, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    data = task.data.train
    while True:
        rows = torch.randint(len(data.inputs), (batch,), generator=generator)
        yield data.inputs[rows], data.targets[rows]


def _cost(model: nn.Module, inputs: Tensor, targets: Tensor, rounds: int) -> dict[str, Any]:
    """A step's forward and backward pass with the norms of all layers or of some, over without."""
    with ExitStack() as stack:
        contenders: dict[str, Callable[[], object]] = {}
        settings: dict[str, Any] = {"plain": None, "norms": is_normalization, "all": ...}
        for name, only in settings.items():
            own = copy.deepcopy(model)
            source = None
            if name != "plain":
                source = layer_statistics(own, only=None if only is ... else only)
                stack.enter_context(source)
            contenders[name] = _step(own, source, inputs, targets)
        seconds = rounds_of_seconds(contenders, rounds)
    found: dict[str, Any] = {"seconds": statistics.median(seconds["plain"])}
    for name in ("norms", "all"):
        found[name] = list(ratio(seconds[name], seconds["plain"]))
    return found


def _step(
    model: nn.Module, source: layer_statistics | None, inputs: Tensor, targets: Tensor
) -> Callable[[], object]:
    def step() -> None:
        model.zero_grad()
        sequence_loss(model(inputs), targets).backward()
        if source is not None:
            source.statistics()

    return step


TEXT = """\
Gray, Tiwari, Bergsma, Hestness, arXiv 2411.00999: the gradient noise scale of a transformer's
normalisation layers follows that of all its parameters. `layer_statistics(model,
only=is_normalization)` measures them alone: here {share:.2%} of the parameters. The next character
of tiny shakespeare, Adam with lr {lr:g}, batches of {batch} sequences of {tokens} characters; every
{every} steps both are measured on the same batch, and V and |G|² are averaged over them with
{beta:g} as weight of the past. The first tenth of the run is left out of the correlations, which
are over the points at which both averages of |G|² are above 0. The cost is that of forward and
backward pass and record, over the two passes alone, in turns; the median of the rounds' ratios and
their quartiles.

![Noise scale of the normalisation layers and of all parameters over the samples of a run, and one
over the other](../images/normalization_noise.png)
"""


def section(figures: Stored) -> list[str]:
    """Correlations and costs of every seed."""
    settings, result = figures.runs[0]["settings"], figures.runs[0]["result"]
    lines = paragraph(TEXT, **settings["size"], share=result["parameters"], beta=settings["beta"])
    header = ["", "seed", "points", "correlation", "of the logarithms",
              "scale of norms / of all", "cost, normalisations", "cost, all layers"]  # fmt: skip
    rows = []
    for run in figures.runs:
        found = run["result"]
        costs = [Spread(*found["cost"][name]) for name in ("norms", "all")]
        rows.append(
            [
                run["task"],
                str(run["seed"]),
                f"{found['points']} of {found['of']}",
                _number(found["correlation"], 3),
                _number(found["correlation_of_logarithms"], 3),
                _number(found["ratio"], 2),
                *(f"{c.median:.3f} ({c.lower:.3f} to {c.upper:.3f})" for c in costs),
            ]
        )
    return lines + table(header, rows)


def _number(value: float | None, digits: int) -> str:
    """NaN is kept as None."""
    return NONE if value is None else f"{value:.{digits}f}"


def draw(figures: Stored, path: Path = PICTURE) -> Path:
    """The two noise scales over a run's samples, and against each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    over, against = figure.subplots(1, 2)
    labels = {"all": "all parameters", "norms": "normalisation layers alone"}
    curve: Sequence[dict[str, float]] = figures.runs[0]["result"]["curve"]
    for name, label in labels.items():
        points = [(p["samples"], p[name]) for p in curve if p[name]]
        over.plot(*zip(*points, strict=True), label=label)
    over.set(xlabel="samples", ylabel="gradient noise scale, samples", yscale="log")
    over.locator_params(axis="x", nbins=5)
    over.legend(frameon=False)
    for run in figures.runs:
        curve = run["result"]["curve"]
        pairs = [
            (p["all"], p["norms"]) for p in curve[len(curve) // 10 :] if p["all"] and p["norms"]
        ]
        against.plot(*zip(*pairs, strict=True), ".", label=f"seed {run['seed']}")
    against.set(xlabel=labels["all"], ylabel=labels["norms"])
    against.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


FINDINGS = """\
So far one seed, and a short run. The noise scale of 0.3 % of the parameters follows that of all,
with a correlation of 0.93 while that of all triples, but it is half as large: a batch size needs
that factor, which some measured steps of all layers give. Costs were measured while other programs
shared both cores, and their quartiles overlap: that measuring less costs less is by count alone,
one node and one sum for every normalisation and the record, and not by these figures.
"""

EXPERIMENT = Experiment(
    NAME,
    "The noise of normalisation layers alone",
    5,
    runs,
    section,
    {"machine": FINDINGS},
    draw,
)
