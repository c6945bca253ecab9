"""The README's example runs as it stands there, and does what the README says."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the README's example trains on scikit-learn's digits")

README = Path(__file__).parent.parent / "README.md"
if not README.exists():
    pytest.skip("no README here: the tests run away from the sources", allow_module_level=True)

PLAIN, ADAPTIVE = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.M)
EPOCH = re.compile(r"epoch (\d+): (\d+) steps, loss ([\d.]+)")


def _run(script: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], list[Any]]:
    """The script's variables, and (steps, loss) of each epoch."""
    variables: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script, str(README), "exec"), variables)
    printed = EPOCH.findall(capsys.readouterr().out)
    assert [int(epoch) for epoch, *_ in printed] == list(range(len(printed)))
    return variables, [(int(steps), float(loss)) for _, steps, loss in printed]


def test_the_plain_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    _, epochs = _run(PLAIN, capsys)
    assert [steps for steps, _ in epochs] == [225] * 5
    assert epochs[-1][1] < epochs[0][1]


def test_the_adaptive_loop_grows_its_batch_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    variables, epochs = _run(ADAPTIVE, capsys)
    controller = variables["controller"]
    assert controller.samples_seen == len(epochs) * len(variables["dataset"])
    assert controller.steps == sum(steps for steps, _ in epochs)
    assert 8 < controller.batch_size <= 512
    assert epochs[-1][0] < epochs[0][0], "larger batches make fewer steps of an epoch"
    losses = [loss for _, loss in epochs]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.75 * losses[0]


def test_five_lines_make_the_difference() -> None:
    plain, adaptive = (
        # The loop goes into a context, and is the same loop.
        [line.strip() for line in script.splitlines() if line]
        for script in (PLAIN, ADAPTIVE)
    )
    changed = [line for line in difflib.ndiff(plain, adaptive) if line.startswith("+ ")]
    assert [line[-3:] for line in changed] == ["# 1", "# 2", "# 3", "# 4", "# 5"]
    removed = [line for line in difflib.ndiff(plain, adaptive) if line.startswith("- ")]
    assert [line[:10] for line in removed] == ["- loader ="]
