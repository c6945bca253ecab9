"""The demonstration's picture: loss, accuracy and batch size against samples."""

from __future__ import annotations

import io
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from adadagrad_kernels.files import replace_file
from adadagrad_kernels.optional import require

# Okabe and Ito's palette, which colour-blind readers tell apart.
COLORS = ("#D55E00", "#009E73", "#0072B2", "#000000", "#CC79A7")


class Picture:
    """Collects the lines of metrics of several runs and draws them.

    Args:
        dashed: The runs whose curves are dashed.

    Raises:
        MissingDependencyError: matplotlib is not installed; said before any training.
    """

    def __init__(self, dashed: Collection[str] = ()) -> None:
        self._figure = require("matplotlib.figure", "the picture")
        self._ticker = require("matplotlib.ticker", "the picture")
        self._lines: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._styles: dict[str, dict[str, Any]] = {}
        self._dashed = dashed

    def add(self, line: dict[str, Any]) -> None:
        """Takes a line of metrics, labelled with its `run` and `seed`."""
        name = line["run"]
        if name not in self._styles:
            self._styles[name] = {
                "color": COLORS[len(self._styles) % len(COLORS)],
                "linestyle": "--" if name in self._dashed else "-",
                "linewidth": 1.6,
            }
        self._lines.setdefault((name, line["seed"]), []).append(line)

    def save(self, path: Path) -> None:
        """Draws one curve for each seed of each run."""
        figure = self._figure.Figure(figsize=(13, 4.8), layout="constrained")
        loss, accuracy, batch = figure.subplots(1, 3)
        for (name, _), lines in self._lines.items():
            style = self._styles[name]
            evaluated = [line for line in lines if "train_loss" in line]
            _draw(loss, evaluated, "train_loss", style)
            _draw(accuracy, evaluated, "test_accuracy", style)
            # A line tells of the batch that ended at its samples, so the step lies before it.
            _draw(batch, _uncut(lines), "batch/used", {**style, "drawstyle": "steps-pre"})
        for axes, title in (
            (loss, "loss on the training set"),
            (accuracy, "accuracy on the test set"),
            (batch, "batch size"),
        ):
            self._decorate(axes, title)
        self._scale_logarithmically(loss, "{x:g}")
        self._scale_logarithmically(batch, "{x:,.0f}")
        accuracy.yaxis.set_major_formatter(self._ticker.PercentFormatter(1.0, decimals=0))
        accuracy.yaxis.set_major_locator(self._ticker.MaxNLocator(steps=[1, 2, 5, 10]))
        accuracy.set_ylim(self._lowest_accuracy(), 1.0)
        curves = [loss.plot([], **style)[0] for style in self._styles.values()]
        figure.legend(curves, list(self._styles), loc="outside lower center", ncols=len(curves))
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130, format="png")
        replace_file(path, [buffer.getbuffer()])

    def _lowest_accuracy(self) -> float:
        """Leaves out the beginning, where all curves rise steeply and none differs."""
        last: list[float] = [
            [line["test_accuracy"] for line in lines if "test_accuracy" in line][-1]
            for lines in self._lines.values()
        ]
        return max(0.0, math.floor(10 * (min(last) - 0.05)) / 10)

    def _decorate(self, axes: Any, title: str) -> None:
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("samples")
        axes.xaxis.set_major_formatter(self._ticker.StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_major_locator(self._ticker.MaxNLocator(5))
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)

    def _scale_logarithmically(self, axes: Any, numbers: str) -> None:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(self._ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(self._ticker.StrMethodFormatter(numbers))
        axes.yaxis.set_minor_formatter(self._ticker.NullFormatter())


def _uncut(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leaves out the last batches where the end of the budget cut them."""
    sizes = [line["batch/used"] for line in lines]
    return lines[: len(sizes) - sizes[::-1].index(max(sizes))]


def _draw(axes: Any, lines: list[dict[str, Any]], value: str, style: dict[str, Any]) -> None:
    axes.plot([line["samples_seen"] for line in lines], [line[value] for line in lines], **style)
