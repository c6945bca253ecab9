"""A fall in the number of tests is a failure; more of them are none."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "check_counts.py"
if not SCRIPT.exists():
    pytest.skip("no sources here: the tests run away from them", allow_module_level=True)

SPEC = importlib.util.spec_from_file_location("check_counts", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
check_counts = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check_counts)


def report(folder: Path, **counts: int) -> str:
    cases = "".join(
        f'<testcase classname="{name}" name="test_{index}"/>'
        for name, count in counts.items()
        for index in range(count)
    )
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return str(path)


@pytest.mark.parametrize(
    ("counts", "code"),
    [({"a": 2, "b": 1}, 0), ({"a": 3, "b": 1, "c": 1}, 0), ({"a": 1, "b": 5}, 1), ({"a": 9}, 1)],
)
def test_a_fall_in_any_file_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], code: int
) -> None:
    monkeypatch.setattr(check_counts, "KEPT", tmp_path / "counts.json")
    assert check_counts.main(report(tmp_path, a=2, b=1), "--write") == 0
    assert check_counts.main(report(tmp_path, **counts)) == code


def test_what_is_kept_is_of_this_suite() -> None:
    kept = json.loads(check_counts.KEPT.read_text(encoding="utf-8"))
    assert kept["python_tests.test_check_counts"] >= 5
    for name in kept:
        assert SCRIPT.parents[1].joinpath(*name.split(".")).with_suffix(".py").is_file(), name
