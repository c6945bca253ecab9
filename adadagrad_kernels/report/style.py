"""How pictures look: colours, axes, numbers; the only place that talks to matplotlib's styles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from adadagrad_kernels.optional import require
from adadagrad_kernels.report.curves import Curve

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow, which
# fades on white. Further curves reuse the colours with other lines.
COLORS = ("#D55E00", "#009E73", "#0072B2", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = (("-", "--"), ("-.", ":"))

#: How many times above a curve a band ends that has no end.
_FAR = 1e6
PANEL = (4.1, 3.3)
_DPI = 200


def line_style(place: int, *, dashed: bool) -> dict[str, Any]:
    """Returns the style of one of several curves.

    Args:
        place: Which of them.
        dashed: For what the others are compared with: batches that no test sizes.
    """
    lines = _LINES[place // len(COLORS) % len(_LINES)]
    return {
        "color": COLORS[place % len(COLORS)],
        "linestyle": lines[1 if dashed else 0],
        "linewidth": 1.6,
    }


class Canvas:
    """A figure with panels, at most three in a row, and one legend below them.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """

    def __init__(self, panels: int) -> None:
        figure = require("matplotlib.figure", "the picture")
        self._ticker = require("matplotlib.ticker", "the picture")
        rows = -(-panels // 3)
        columns = -(-panels // rows)
        self._height = PANEL[1] * rows
        width = max(PANEL[0] * columns, 1.3 * PANEL[0])
        self._figure = figure.Figure(figsize=(width, self._height), layout="constrained")
        grid = self._figure.subplots(rows, columns, squeeze=False).flat
        self.panels: Sequence[Any] = grid[:panels]
        for panel in grid[panels:]:
            panel.set_visible(False)

    def decorate(self, panel: Any, title: str, x_label: str) -> None:
        """Writes the titles and draws the frame of a panel."""
        panel.set_title(title, loc="left", fontsize=10.5)
        panel.set_xlabel(x_label)
        panel.xaxis.set_major_locator(self._ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
        panel.xaxis.set_major_formatter(self._ticker.FuncFormatter(short_number))
        panel.yaxis.set_major_formatter(self._ticker.FuncFormatter(short_number))
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.02)

    def draw(self, panel: Any, curve: Curve, style: dict[str, Any], *, held: bool) -> None:
        """Draws a curve and its band; a single point as a dot.

        Args:
            panel: Where.
            curve: What.
            style: Of the line.
            held: A point tells of what ended there, so the step lies before it.
        """
        dot = {"marker": "o", "markersize": 4} if len(curve.x) == 1 else {}
        panel.plot(curve.x, curve.y, **style, **dot, drawstyle="steps-pre" if held else None)
        if curve.low is not None and curve.high is not None:
            panel.fill_between(
                curve.x,
                curve.low,
                np.minimum(curve.high, _FAR * np.max(curve.y)),
                step="pre" if held else None,
                color=style["color"],
                alpha=0.2,
                linewidth=0,
            )

    def logarithmic(self, panel: Any, which: str) -> None:
        """Makes the axis `x` or `y` of a panel logarithmic, with 1, 2 and 5 where there is room."""
        panel.set(**{f"{which}scale": "log"})
        axis = panel.xaxis if which == "x" else panel.yaxis
        low, high = sorted(axis.get_view_interval())
        ratio = high / low if low > 0 else 10.0
        subs: tuple[float, ...] = (1.0, 2.0, 5.0) if ratio < 1000 else (1.0,)
        if ratio < 8:
            subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axis.set_major_locator(self._ticker.LogLocator(subs=subs, numticks=9))
        axis.set_major_formatter(self._ticker.FuncFormatter(short_number))
        axis.set_minor_formatter(self._ticker.NullFormatter())

    def percent(self, axis: Any) -> None:
        """Writes shares as per cent."""
        axis.set_major_formatter(self._ticker.PercentFormatter(1.0))
        axis.set_major_locator(self._ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))

    def legend(self, styles: dict[str, dict[str, Any]]) -> None:
        """Names the curves, in as many columns as fit."""
        curves = [self.panels[0].plot([], **style)[0] for style in styles.values()]
        inches = 0.075 * max(len(name) for name in styles) + 0.7
        columns = max(1, int(self._figure.get_figwidth() / inches))
        rows = -(-len(curves) // columns)
        columns = -(-len(curves) // rows)
        self._figure.set_figheight(self._height + 0.15 + 0.24 * rows)
        self._figure.legend(
            curves,
            [name.replace("$", r"\$") for name in styles],
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9.5,
        )

    def png(self) -> bytes:
        """Draws the figure."""
        buffer = io.BytesIO()
        self._figure.savefig(buffer, dpi=_DPI, format="png")
        return buffer.getvalue()


def short_number(value: float, place: object = None) -> str:
    """Writes a number of an axis shortly.

    Example:
        >>> [short_number(x) for x in (0, 0.05, 512, 20_000, 1_500_000, 3e-7)]
        ['0', '0.05', '512', '20K', '1.5M', '3e-07']
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e4, "K")):
        if abs(value) >= unit:
            return f"{value / (1e3 if name == 'K' else unit):.4g}{name}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
