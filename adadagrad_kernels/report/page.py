"""One HTML page that holds everything it shows: style and pictures are in the file itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from adadagrad_kernels.report import results
from adadagrad_kernels.report.figures import Figure, Groups
from adadagrad_kernels.report.results import Row

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; margin: 2rem auto;
  max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p, figcaption { max-width: 48rem; } figure { margin: 0; } figcaption, .note { color: #444; }
img { max-width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
thead th { border-bottom: 2px solid #999; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; font-weight: 600; }
.unfinished { color: #a33c00; font-weight: 600; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""


def page(title: str, groups: Groups, rows: Sequence[Row], figures: Sequence[Figure]) -> str:
    """Returns the page.

    Args:
        title: Its heading.
        groups: The runs.
        rows: Their results.
        figures: The pictures.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        _unfinished(groups),
        "<h2>Results</h2>",
        _table(rows),
        f'<p class="note">{escape(" ".join(notes(groups)))}</p>',
        *map(_figure, figures),
        "<h2>Files</h2><ul>",
        *(
            f"<li>{escape(_label(name, run.seed))}: <code>{escape(str(run.source))}</code>, "
            f"{len(run.lines):,} lines{'' if run.finished else ', unfinished'}</li>"
            for name, runs in groups.items()
            for run in runs
        ),
        "</ul></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def notes(groups: Groups) -> list[str]:
    """Says what the columns and curves of these runs mean."""
    texts = []
    level = results.common_accuracy(groups)
    if level is not None:
        texts.append(
            f"The common accuracy is {level:.2%}, the best that every finished run reached."
        )
    texts.append(
        "Seconds are of training alone; statistics is the share of them that statistics and tests "
        "took."
    )
    if any(len(runs) > 1 for runs in groups.values()):
        texts.append(
            "± and bands are one standard error of the mean over the seeds; a curve goes as far "
            "as all its seeds do."
        )
    texts.append("Dashed curves are of runs without a test: fixed batches and schedules.")
    return texts


def _label(name: str, seed: str | None) -> str:
    return name if seed is None else f"{name}, seed {seed}"


def _unfinished(groups: Groups) -> str:
    texts = [
        f"{_label(name, run.seed)} (up to {run.lines[-1]['samples_seen']:,.0f} samples)"
        for name, runs in groups.items()
        for run in runs
        if not run.finished
    ]
    if not texts:
        return ""
    return f'<p class="unfinished">Unfinished: {escape("; ".join(texts))}.</p>'


def _table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in results.header())
    body = []
    for row in rows:
        *cells, state = results.cells(row)
        data = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        kind = ' class="unfinished"' if row.unfinished else ""
        body.append(f"<tr>{data}<td{kind}>{escape(state)}</td></tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _figure(figure: Figure) -> str:
    title = figure.title[0].upper() + figure.title[1:]
    data = base64.b64encode(figure.png).decode()
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
    return (
        f"<h2>{escape(title)}</h2><figure>"
        f'<img src="data:image/png;base64,{data}" alt="{escape(title)} of every run">'
        f"{caption}</figure>"
    )
