"""The picture of a critical batch: steps to the target against the batch, and the branches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from adadagrad_kernels.report.curves import Curve
from adadagrad_kernels.report.style import Canvas, line_style


def picture(summary: Mapping[str, Any]) -> bytes:
    """Draws steps and samples to the target against the batch, with the fits and the noise scale.

    Args:
        summary: what `critical-batch` writes.
    """
    canvas = Canvas(2)
    styles = {
        fit["rule"]: line_style(place, dashed=False) for place, fit in enumerate(summary["fits"])
    }
    sizes = sorted({point["size"] for point in summary["branches"]})
    grid = np.geomspace(sizes[0], sizes[-1], 100)
    titles = ("steps to the target loss", "samples to the target loss")
    for which, (panel, title) in enumerate(zip(canvas.panels, titles, strict=True)):
        canvas.decorate(panel, title, "batch size")
        for fit in summary["fits"]:
            style = styles[fit["rule"]]
            own = [
                (point["size"], point["steps"])
                for point in summary["branches"]
                if point["rule"] == fit["rule"] and point["steps"] is not None
            ]
            if math.isfinite(fit["critical"]):
                steps = fit["least_steps"] * (1.0 + fit["critical"] / grid)
            else:  # as many samples at every size
                steps = np.exp(np.mean([math.log(size * s) for size, s in own or [(1, 1)]])) / grid
            curve = Curve(grid, steps * grid if which else steps)
            canvas.draw(panel, curve, style, held=False)
            for size, value in own:
                panel.plot(
                    size,
                    value * (size if which else 1),
                    "o",
                    color=style["color"],
                    markersize=4,
                    alpha=0.6,
                )
        best = summary["fits"][-1]
        low, high = best["interval"]
        frame = panel.get_xlim()
        panel.axvspan(
            max(low, sizes[0] / 4), min(high, sizes[-1] * 4),
            color=styles[best["rule"]]["color"], alpha=0.12, linewidth=0,
        )  # fmt: skip
        noise = summary["noise_scale"]["value"]
        if math.isfinite(noise):
            panel.axvline(noise, color="0.4", linewidth=1, linestyle=":")
        panel.set_xlim(max(frame[0], sizes[0] / 2), sizes[-1] * 2)
        canvas.logarithmic(panel, "x")
        canvas.logarithmic(panel, "y")
    named = {f"learning rate: {rule}": style for rule, style in styles.items()}
    named["noise scale"] = {"color": "0.4", "linewidth": 1, "linestyle": ":"}
    canvas.legend(named)
    return canvas.png()
