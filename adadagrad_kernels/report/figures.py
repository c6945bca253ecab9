"""The figures: which metrics are drawn against what, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from adadagrad_kernels.report import curves
from adadagrad_kernels.report.curves import Band, Points
from adadagrad_kernels.report.runs import Run
from adadagrad_kernels.report.style import Canvas, line_style

Groups: TypeAlias = Mapping[str, Sequence[Run]]
Find: TypeAlias = Callable[[Run, str], Points]

AXES = {"samples_seen": "samples", "steps": "steps", "seconds": "seconds of training"}
# Where the longest run is so many times as long as the shortest, the axis is logarithmic.
_LONG = 8.0


@dataclass(frozen=True)
class Quantity:
    """What a panel shows.

    Attributes:
        title: Of the panel.
        find: Returns a run's points along an axis.
        scale: ``log``, ``percent`` or ``linear``.
        held: Whether it stays the same between points, as a batch size does.
        limit: A value to draw a line at.
        width: Of the curves: thin where they jump from step to step.
        band: Returns the ends of a run's interval along an axis; drawn where a curve is of one
            run.
    """

    title: str
    find: Find
    scale: str = "linear"
    held: bool = False
    limit: float | None = None
    width: float = 1.6
    band: Callable[[Run, str], Band] | None = None


@dataclass(frozen=True)
class Figure:
    """A picture: its file's stem, what it says, and its bytes."""

    name: str
    title: str
    caption: str
    png: bytes


TRAIN_LOSS = Quantity("loss on the training set", curves.metric("train_loss"), "log")
TEST_LOSS = Quantity("loss on the test set", curves.metric("test_loss"), "log")
BATCH_LOSS = Quantity("loss of the batch", curves.metric("loss"), "log")
ACCURACY = Quantity("accuracy on the test set", curves.metric("test_accuracy"), "percent")
BATCH_SIZE = Quantity("batch size", curves.batch_size, "log", held=True)
NOISE_SCALE = Quantity(
    "gradient noise scale", curves.noise_scale, "log", band=curves.noise_scale_band
)
SUGGESTED = Quantity(
    "T / b", curves.suggested_ratio, "log", limit=1.0, width=0.9, band=curves.suggested_band
)


def overview(groups: Groups) -> bytes:
    """Draws loss, accuracy and batch size against samples, in one picture."""
    shown = [(q, "samples_seen") for q in (TRAIN_LOSS, ACCURACY, BATCH_SIZE)]
    return _draw(groups, shown)


def figures(groups: Groups) -> list[Figure]:
    """Draws every figure for which there are metrics."""
    loss = TRAIN_LOSS if _has(groups, TRAIN_LOSS) else BATCH_LOSS
    plans = [
        ("loss", loss.title, "", [(loss, axis) for axis in AXES]),
        ("accuracy", ACCURACY.title, "", [(ACCURACY, axis) for axis in AXES]),
        ("test_loss", TEST_LOSS.title, "", [(TEST_LOSS, axis) for axis in AXES]),
        (
            "batch_size",
            BATCH_SIZE.title,
            "Samples in each step.",
            [(BATCH_SIZE, axis) for axis in AXES],
        ),
        (
            "tests",
            "the tests",
            "At each test: the size T that it suggests, by the size b of its batch, and the "
            "smallest constant with which it would have passed, by the constant it has. It passes "
            "at or below the grey line.",
            [(quantity, "steps") for quantity in (SUGGESTED, *_constants(groups))],
        ),
        (
            "noise_scale",
            NOISE_SCALE.title,
            "tr(Σ) / |G|², each estimated without bias and averaged apart over the tests, with "
            f"weights that fall by {curves.NOISE_MEMORY:g} from test to test. Bands: confidence "
            "intervals, where a run has --error-bars.",
            [(NOISE_SCALE, "samples_seen"), (NOISE_SCALE, "steps")],
        ),
    ]
    drawn = []
    for name, title, caption, shown in plans:
        shown = [(q, axis) for q, axis in shown if _has(groups, q, axis)]
        if shown:
            drawn.append(Figure(name, title, caption, _draw(groups, shown)))
    return drawn


NAMES = ("loss", "accuracy", "test_loss", "batch_size", "tests", "noise_scale")


def _constants(groups: Groups) -> list[Quantity]:
    """Returns a panel for each constant that a test of some run has."""
    lines = [line for runs in groups.values() for run in runs for line in run.lines]
    names = sorted({name[5:-4] for line in lines for name in line if _is_smallest(name)})
    quantities = []
    for name in names:
        users = [line for line in lines if f"test/{name}_min" in line]
        known = all(f"test/{name}" in line for line in users)
        # Without the constant, its smallest value stands for itself.
        title = f"smallest {name} that passes" + (f" / {name}" if known else "")
        quantities.append(
            Quantity(
                title,
                curves.constant_ratio(name),
                "log",
                limit=1.0 if known else None,
                width=0.9,
            )
        )
    return quantities


def _is_smallest(name: str) -> bool:
    return name.startswith("test/") and name.endswith("_min")


def _has(groups: Groups, quantity: Quantity, axis: str = "samples_seen") -> bool:
    return any(quantity.find(run, axis) for runs in groups.values() for run in runs)


def _draw(groups: Groups, shown: Sequence[tuple[Quantity, str]]) -> bytes:
    canvas = Canvas(len(shown))
    styles = {
        name: line_style(place, dashed=all(curves.is_untested(run) for run in runs))
        for place, (name, runs) in enumerate(groups.items())
    }
    drawn: set[str] = set()
    for panel, (quantity, axis) in zip(canvas.panels, shown, strict=True):
        drawn |= _panel(canvas, panel, quantity, axis, groups, styles)
    canvas.legend({name: style for name, style in styles.items() if name in drawn})
    return canvas.png()


def _panel(
    canvas: Canvas,
    panel: Any,
    quantity: Quantity,
    axis: str,
    groups: Groups,
    styles: Mapping[str, dict[str, Any]],
) -> set[str]:
    """Draws one panel and returns the names of its curves."""
    found = {
        name: curves.mean_curve([quantity.find(run, axis) for run in runs], held=quantity.held)
        for name, runs in groups.items()
    }
    drawn = {name: curve for name, curve in found.items() if curve is not None}
    for name, curve in drawn.items():
        if quantity.band is not None and len(groups[name]) == 1:
            drawn[name] = curves.with_band(curve, quantity.band(groups[name][0], axis))
    canvas.decorate(panel, quantity.title, AXES[axis])
    ends = [float(curve.x[-1]) for curve in drawn.values()]
    logarithmic = bool(ends) and min(ends) > 0 and max(ends) > _LONG * min(ends)
    if logarithmic:  # which has no place for the beginning
        drawn = {name: curve.after(0.0) for name, curve in drawn.items()}
    for name, curve in drawn.items():
        style = {**styles[name], "linewidth": quantity.width}
        canvas.draw(panel, curve, style, held=quantity.held)
    if quantity.limit is not None:
        panel.axhline(quantity.limit, color="0.5", linewidth=1)
    if logarithmic:
        canvas.logarithmic(panel, "x")
    values = [float(value) for curve in drawn.values() for value in curve.y]
    if quantity.scale == "percent":
        canvas.percent(panel.yaxis)
        if values:
            panel.set_ylim(_accuracy_frame(values, [c.y[-1] for c in drawn.values()]))
    elif quantity.scale == "log" and values and min(values) > 0:
        # The band may reach to nothing, which a logarithm does not draw: curves set the frame.
        marks = [*values, quantity.limit or values[0]]
        panel.set_ylim(min(marks) / 1.25, max(marks) * 1.25)
        canvas.logarithmic(panel, "y")
    return set(drawn)


def _accuracy_frame(values: Sequence[float], lasts: Sequence[float]) -> tuple[float, float]:
    """Leaves out the beginning, where all curves rise steeply and none differs."""
    low = max(0.0, math.floor(10 * (min(lasts) - 0.1)) / 10, math.floor(20 * min(values)) / 20)
    return low, min(1.0, max(values) + 0.15 * (max(values) - low) + 1e-3)
