"""`adadagrad-kernels report`: the page, the pictures, the table, and files that are not whole."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from adadagrad_kernels.cli import main
from adadagrad_kernels.cli import report as command
from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.report import style
from adadagrad_kernels.report.runs import collect
from adadagrad_kernels.report.style import COLORS

NAMES = {"loss", "accuracy", "test_loss", "batch_size", "tests", "noise_scale"}


def line(step: int, *, seed: int = 0, fixed: bool = False, **more: Any) -> dict[str, Any]:
    """A line as train writes it, of made-up numbers."""
    size = 8 if fixed else 8 * 2 ** (step // 10)
    test = {
        "batch/suggested": size * (0.5 + step % 7 / 4),
        "test/eta_min": 0.05 + 0.01 * (step % 9),
        "test/eta": 0.1,
        "grad/norm_sq": 1 / step,
        "grad/var": 5.0 + seed,
    }
    return {
        "samples_seen": 100 * step,
        "steps": 3 * step if fixed else step,
        "batch/used": size,
        "batch/average": 100 / 3 if fixed else 100.0,
        "seconds": 0.1 * step,
        "statistics_share": 0.0 if fixed else 0.25,
        "loss": 2 / step,
        "train_loss": (2 + seed) / step,
        "test_loss": 2.5 / step,
        "test_accuracy": 1 - (0.5 + 0.1 * seed) / step,
        **({} if fixed else test),
        **more,
    }


def write(path: Path, lines: list[dict[str, Any]], *, end: bool = True) -> Path:
    if end:
        lines = [*lines, {**lines[-1], "end": True}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two seeds of one way to train, and a fixed batch that is not finished."""
    for seed in (0, 1):
        lines = [line(step, seed=seed) for step in range(1, 31)]
        write(tmp_path / f"cnn-seed{seed}" / "metrics.jsonl", lines)
    lines = [line(step, fixed=True) for step in range(1, 11)]
    write(tmp_path / "<b>fixed & slow" / "metrics.jsonl", lines, end=False)
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds, and tests of numbers need none of it."""
    monkeypatch.setattr(command, "figures", lambda groups: [])


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "_DPI", 60)


def report(folder: Path, *arguments: object) -> int:
    return main(["report", *map(str, arguments), "--out", str(folder / "out")])


class Page(HTMLParser):
    """What a page shows, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object", "b")
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


def test_page_and_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [folder / "cnn-seed0", folder / "cnn-seed1", folder / "<b>fixed & slow"]
    assert report(folder, *runs, "--title", "A & <i>B</i>") == 0
    out = folder / "out"
    assert {path.name for path in out.iterdir()} == {
        "report.html",
        *(f"{name}.png" for name in NAMES),
    }
    text = (out / "report.html").read_text()
    assert "http" not in text
    assert "url(" not in text
    page = Page(text)
    assert page.texts["title"] == page.texts["h1"] == ["A & <i>B</i>"]
    assert len(page.sources) == len(NAMES)
    embedded = set()
    for source in page.sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        embedded.add(base64.b64decode(data))
    assert embedded == {(out / f"{name}.png").read_bytes() for name in NAMES}
    cells = page.texts["td"]
    assert cells[cells.index("cnn") + 1] == "2"
    assert cells[cells.index("<b>fixed & slow") + 1] == "1"
    assert cells.count("unfinished") == cells.count("finished") == 1
    assert "Unfinished: <b>fixed & slow (up to 1,000 samples)." in page.texts["p"]
    printed = capsys.readouterr().out
    assert "unfinished" in printed
    assert str(out / "report.html") in printed


def test_pictures_show_every_curve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # as fine as they are
    assert report(folder, folder / "cnn-seed0", folder / "<b>fixed & slow") == 0
    for name in NAMES:
        picture = (folder / "out" / f"{name}.png").read_bytes()
        pixels = imread(io.BytesIO(picture))[:, :, :3]
        height, width, _ = pixels.shape
        assert 600 < height < 1000
        assert 1000 < width < 4000
        for color, drawn in (
            (COLORS[0], True),
            (COLORS[1], name not in ("tests", "noise_scale")),
            (COLORS[2], False),
        ):
            found = int((abs(pixels - to_rgb(color)).max(2) < 0.02).sum())
            assert (found > 300) == drawn, f"{name}: {found} pixels of {color}"


@pytest.mark.usefixtures("no_pictures")
def test_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [folder / "cnn-seed0", folder / "cnn-seed1", folder / "<b>fixed & slow"]
    assert report(folder, *runs, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    cnn, fixed = summary["runs"]
    bests = [1 - 0.5 / 30, 1 - 0.6 / 30]
    assert summary["common_accuracy"] == pytest.approx(min(bests)), "of those that are finished"
    assert (cnn["run"], cnn["seeds"], cnn["unfinished"]) == ("cnn", 2, 0)
    assert (fixed["seeds"], fixed["unfinished"]) == (1, 1)
    assert (cnn["steps"], cnn["samples_seen"]) == (30, 3000)
    assert (fixed["steps"], fixed["samples_seen"]) == (30, 1000)
    assert fixed["batch/average"] == pytest.approx(100 / 3)
    assert cnn["best_accuracy"] == cnn["last_accuracy"] == pytest.approx(np.mean(bests))
    assert cnn["best_accuracy_error"] == pytest.approx(np.std(bests, ddof=1) / np.sqrt(2))
    assert fixed["best_accuracy_error"] is None
    assert cnn["last_loss"] == pytest.approx((2 / 30 + 3 / 30) / 2)
    assert cnn["seconds"] == pytest.approx(3.0)
    # Seed 0 is at the accuracy 1 - 0.6/30 of seed 1 when 0.5/step <= 0.02: at step 25.
    assert cnn["seconds_to_common_accuracy"] == pytest.approx((2.5 + 3.0) / 2)
    assert fixed["seconds_to_common_accuracy"] is None
    assert cnn["statistics_share"] == 0.25
    assert summary["files"] == [str(folder / "out" / "report.html")]


LINES = [json.dumps(line(step)) for step in range(1, 5)]


@pytest.mark.usefixtures("no_pictures")
def test_a_torn_last_line_is_of_a_run_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "metrics.jsonl"
    for torn in (LINES[2][:50], LINES[2][:50] + "\n", ""):
        file.write_text("\n".join([*LINES[:2], torn]))
        assert report(tmp_path, file, "--json") == 0
        (row,) = json.loads(capsys.readouterr().out)["runs"]
        assert (row["unfinished"], row["samples_seen"]) == (1, 200)


@pytest.mark.usefixtures("no_pictures")
def test_old_pictures_do_not_stay(folder: Path) -> None:
    (folder / "out").mkdir()
    for name in ("tests.png", "loss.png", "mine.png"):
        (folder / "out" / name).touch()
    assert report(folder, folder / "cnn-seed0") == 0
    assert {path.name for path in (folder / "out").iterdir()} == {"mine.png", "report.html"}


def test_numbers_that_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that diverged is not replaced by an older one, and draws nothing."""
    lines = [line(1), line(2), line(3, train_loss=None, **{"batch/suggested": None})]
    file = write(tmp_path / "metrics.jsonl", lines)
    file.write_text(file.read_text().replace("null", "NaN", 1))
    assert report(tmp_path, file, "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["last_loss"] is None
    assert row["last_accuracy"] == pytest.approx(1 - 0.5 / 3)


def test_report_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What train writes is finished and has every picture; its test has a constant."""
    run = "--model logistic --test augmented --batch-size 4 --max-batch 200 --samples 600 --quiet"
    assert main(["train", *run.split(), "--lr", "0.05", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert report(tmp_path, tmp_path / "run", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert (row["run"], row["unfinished"], row["samples_seen"]) == ("run", 0, 600)
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == NAMES
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    written = [json.loads(line) for line in text.splitlines()]
    names = {name for line in written for name in line}
    assert written[-1]["test/theta"] == 0.5
    document = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
    if document.exists():  # not where the tests run away from the sources
        text = document.read_text()
        missing = {name for name in names if f"`{name}`" not in text}
        missing = {name for name in missing if not name.startswith(("test/theta", "test/nu"))}
        assert not missing


def test_names_and_paths_may_have_equals_signs(tmp_path: Path) -> None:
    write(tmp_path / "eta=0.5" / "metrics.jsonl", [line(1)])
    write(tmp_path / "plain" / "metrics.jsonl", [line(1)])
    given = {
        f"{tmp_path}/eta=0.5": ("eta=0.5", "eta=0.5"),
        f"{tmp_path}/plain": ("plain", "plain"),
        f"mine={tmp_path}/eta=0.5": ("mine", "eta=0.5"),
        f"lr=0.1={tmp_path}/plain": ("lr=0.1", "plain"),
        f"lr=0.1, eta=0.5={tmp_path}/eta=0.5": ("lr=0.1, eta=0.5", "eta=0.5"),
    }
    for argument, (name, folder) in given.items():
        (run,) = collect([argument])
        assert (run.name, run.source.parent.name) == (name, folder), argument
    with pytest.raises(DataFormatError, match=r"neither 0\.1=nowhere nor nowhere is there; give"):
        collect(["lr=0.1=nowhere"])
    with pytest.raises(DataFormatError, match="nowhere: no such file; give a folder"):
        collect(["lr=nowhere"])
