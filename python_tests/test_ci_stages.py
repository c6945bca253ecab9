""".ci/stages.sh: stages of CI beside each other fail and print as if they ran one by one."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

STAGES = Path(__file__).parents[1] / ".ci/stages.sh"
if not STAGES.is_file():
    pytest.skip("no .ci here: the tests run away from the sources", allow_module_level=True)


def run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = f'set -euo pipefail\nsource "{STAGES}"\n{text}'
    return subprocess.run(
        ["bash", "-c", program], cwd=folder, capture_output=True, text=True, timeout=60
    )


def test_what_a_stage_prints_stays_together(tmp_path: Path) -> None:
    """Both wait for each other, so they run at the same time; their lines do not mix."""
    done = run(
        """
        first() { echo one; touch a; until [[ -e b ]]; do sleep 0.01; done; echo two >&2; }
        second() { until [[ -e a ]]; do sleep 0.01; done; echo three; touch b; echo four; }
        beside first first
        beside second second
        stage between
        finish second first
        echo "the end"
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line and "beside" not in line]
    names = [line.split("  (")[0] for line in lines]
    assert names == [
        *("=== between", "=== second", "three", "four", "=== first", "one", "two", "the end"),
    ]


@pytest.mark.parametrize("failing", ["false", "exit 3", "true | grep x | cat", "echo $missing"])
def test_a_stage_that_fails_ends_the_run_and_shows_why(tmp_path: Path, failing: str) -> None:
    """Wherever in the stage it fails: what comes after is not run, in it or after it."""
    done = run(
        f"""
        stage_() {{ echo before; {failing}; echo after; }}
        beside bad stage_
        echo going on
        finish bad
        echo the end
        """,
        tmp_path,
    )
    assert done.returncode == (3 if "3" in failing else 1)
    assert "going on" in done.stdout
    assert "=== bad" in done.stdout
    assert "\nbefore\n" in done.stdout
    assert "after" not in done.stdout.replace("beside", "")
    assert "the end" not in done.stdout
    assert "failed with status" in done.stderr


def test_nothing_goes_on_when_the_run_has_ended(tmp_path: Path) -> None:
    """Whatever the other stage has started ends with it."""
    done = run(
        """
        long() { touch started; (sleep 1; touch alive); }
        beside long long
        until [[ -e started ]]; do sleep 0.01; done
        echo "$scratch" >folder
        false
        """,
        tmp_path,
    )
    assert done.returncode == 1
    time.sleep(1.5)
    assert not (tmp_path / "alive").exists()
    assert not Path((tmp_path / "folder").read_text().strip()).exists()
