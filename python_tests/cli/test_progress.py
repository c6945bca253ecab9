"""The bar: samples and batch size on a terminal, nothing elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

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


def test_no_bar_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == ""
    assert shown(monkeypatch, Terminal(), quiet=True) == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert shown(monkeypatch, Terminal()) == ""


@pytest.mark.parametrize("tqdm_loaded", [True, False])
def test_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tqdm_loaded: bool
) -> None:
    if tqdm_loaded:
        import tqdm  # noqa: F401
    else:
        monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    warn("the disk is full")
    assert capsys.readouterr().err == "adadagrad-kernels: warning: the disk is full\n"
