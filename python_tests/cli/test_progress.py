"""The bar: samples and batch size on a terminal, nothing elsewhere."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import tqdm

from adadagrad_kernels.cli import main
from adadagrad_kernels.cli.progress import Progress, warn


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, *, quiet: bool = False) -> str:
    """What a run of 1,000 samples, resumed at 400, leaves on stderr."""
    monkeypatch.setattr(sys, "stderr", stderr)
    progress = Progress("adagrad, norm", 1000, done=400, quiet=quiet)
    progress.advance(100, 1024, 0.12345)
    progress.close()
    return stderr.getvalue()


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    last = text.splitlines()[-1].rpartition("\r")[2]
    assert "adagrad, norm: " in last
    assert "50%" in last
    assert "500/1.00k" in last
    assert "batch 1,024, loss 0.123" in last


@pytest.mark.parametrize("columns", [1, 5, 12, 20, 30, 40, 50, 60, 79, 100, 200])
def test_what_does_not_fit_is_left_out_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(tqdm.std, "_screen_shape_wrapper", lambda: lambda file: (columns, 24))
    text = shown(monkeypatch, Terminal())
    last = text.splitlines()[-1].rpartition("\r")[2].rstrip()
    assert "50%" in last
    assert len(last) <= max(columns, 4)
    for whole in ("adagrad, norm: ", "1.00k", "samples/s", "batch 1,024, loss 0.123]"):
        first = whole.split(" ")[0]
        assert (whole in last) or (first not in last), last
    assert ("samples/s" in last) == (columns >= 100)
    assert ("batch 1,024" in last) == (columns >= 50)


def test_findings_stand_on_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["train", "--model", "logistic", "--eta", "0.001", "--samples", "300", "--quiet"]
    options += ["--growth-cap", "1e6"]
    assert main([*options, "--out", str(tmp_path)]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("adadagrad-kernels: warning: step 1: cap_at_once: ")


def test_no_bar_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == ""
    assert shown(monkeypatch, Terminal(), quiet=True) == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert shown(monkeypatch, Terminal()) == ""


@pytest.mark.parametrize("tqdm_loaded", [True, False])
def test_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tqdm_loaded: bool
) -> None:
    if not tqdm_loaded:
        monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    warn("the disk is full")
    assert capsys.readouterr().err == "adadagrad-kernels: warning: the disk is full\n"
