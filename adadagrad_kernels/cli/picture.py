"""The demonstration's picture: loss, accuracy and batch size against samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from adadagrad_kernels.cli.files import replace_file
from adadagrad_kernels.cli.optional import require

# Okabe and Ito's palette, which colour-blind readers tell apart; dashes help in black and white.
STYLES = (
    ("#D55E00", "-"),
    ("#009E73", "-"),
    ("#0072B2", "-"),
    ("#000000", "--"),
    ("#CC79A7", "--"),
)


class Picture:
    """Collects the lines of metrics of several runs and draws them.

    Raises:
        MissingDependencyError: matplotlib is not installed; said before any training.
    """

    def __init__(self) -> None:
        self._figure = require("matplotlib.figure", "the picture")
        self._ticker = require("matplotlib.ticker", "the picture")
        self._lines: dict[tuple[str, int], list[dict[str, Any]]] = {}

    def add(self, line: dict[str, Any]) -> None:
        """Takes a line of metrics, labelled with its `run` and `seed`."""
        self._lines.setdefault((line["run"], line["seed"]), []).append(line)

    def save(self, path: Path) -> None:
        """Draws one curve for each seed of each run."""
        figure = self._figure.Figure(figsize=(13, 4.6), layout="constrained")
        loss, accuracy, batch = figure.subplots(1, 3)
        styles: dict[str, tuple[str, str]] = {}
        for (name, _), lines in self._lines.items():
            style = styles.setdefault(name, STYLES[len(styles) % len(STYLES)])
            evaluated = [line for line in lines if "train_loss" in line]
            self._draw(loss, evaluated, "train_loss", style)
            self._draw(accuracy, evaluated, "test_accuracy", style)
            # A line tells of the batch that ended at its samples, so the step lies before it.
            self._draw(batch, lines, "batch/used", style, drawstyle="steps-pre")
        self._decorate(loss, "loss on the training set", scale="log")
        self._decorate(accuracy, "accuracy on the test set")
        accuracy.yaxis.set_major_formatter(self._ticker.PercentFormatter(1.0, decimals=0))
        accuracy.set_ylim(0.8, 1.0)
        self._decorate(batch, "batch size", scale="log")
        batch.yaxis.set_major_formatter(self._ticker.StrMethodFormatter("{x:,.0f}"))
        curves = [loss.plot([], color=color, linestyle=dash)[0] for color, dash in styles.values()]
        figure.legend(curves, list(styles), loc="outside lower center", ncols=len(styles))
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130, format="png")
        replace_file(path, [buffer.getbuffer()])

    def _draw(
        self,
        axes: Any,
        lines: list[dict[str, Any]],
        value: str,
        style: tuple[str, str],
        drawstyle: str = "default",
    ) -> None:
        color, dash = style
        axes.plot(
            [line["samples_seen"] for line in lines],
            [line[value] for line in lines],
            color=color,
            linestyle=dash,
            linewidth=1.6,
            drawstyle=drawstyle,
        )

    def _decorate(self, axes: Any, title: str, scale: str = "linear") -> None:
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_yscale(scale)
        axes.set_xlabel("samples")
        axes.xaxis.set_major_formatter(self._ticker.StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_major_locator(self._ticker.MaxNLocator(5))
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
