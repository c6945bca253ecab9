"""Short runs of `adadagrad-kernels train` in this process: stopped, resumed, compared."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adadagrad_kernels.cli import main
from adadagrad_kernels.training.loop import Trainer

RUN = "--model logistic --lr 0.05 --eta 0.7 --batch-size 4 --max-batch 200 --samples 3000"


def train(out: Path, *options: str) -> int:
    return main(["train", *RUN.split(), "--out", str(out), *options])


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of a run, without the times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in ("seconds", "statistics_seconds", "statistics_share"):
            assert isinstance(line.pop(name), float)
        assert isinstance(line.pop("wall_seconds", None), float) == bool(line.get("end"))
    return lines


def parameters(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "model.pt", weights_only=True)


def assert_same_result(out: Path, expected: Path) -> None:
    assert metrics(out) == metrics(expected)
    found = parameters(out)
    for name, value in parameters(expected).items():
        assert torch.equal(found[name], value)
    assert sorted(os.listdir(out)) == [
        "checkpoint.adak",
        "metrics.jsonl",
        "model.pt",
        "summary.json",
    ]


class Stop(BaseException):
    """Stands for kill -9 inside the process."""


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, stop: Callable[[], None]) -> None:
    """Calls `stop` when the run has made so many steps of its own."""
    made = 0
    step = Trainer._step

    def counted(self: Trainer, *arguments: Any) -> Any:
        nonlocal made
        result = step(self, *arguments)
        made += 1
        if made == steps:
            stop()
        return result

    monkeypatch.setattr(Trainer, "_step", counted)


def kill() -> None:
    raise Stop


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
