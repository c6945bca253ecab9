"""Wheels are configured for what the package claims, and publishing them needs no secret."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "wheels.yml"
if not WORKFLOW.exists():
    pytest.skip("no workflows here: the tests run away from the sources", allow_module_level=True)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    read: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    return read


def test_every_python_that_is_claimed_has_a_wheel_and_one_is_free_threaded(
    project: dict[str, Any],
) -> None:
    of_python = "Programming Language :: Python :: 3."
    claimed = [c for c in project["project"]["classifiers"] if c.startswith(of_python)]
    wheels = {f"cp3{c.removeprefix(of_python)}-*" for c in claimed}
    assert len(wheels) == 5
    assert set(project["tool"]["cibuildwheel"]["build"]) == wheels | {"cp314t-*"}


def test_every_processor_that_is_claimed_has_a_wheel_and_a_runner(
    project: dict[str, Any], workflow: dict[str, Any]
) -> None:
    wheels = project["tool"]["cibuildwheel"]
    assert wheels["linux"]["archs"] == ["x86_64", "aarch64"]
    assert wheels["macos"]["archs"] == ["arm64"]
    for processor in wheels["linux"]["archs"]:
        assert wheels["linux"][f"manylinux-{processor}-image"] == "manylinux_2_28"
    runners = workflow["jobs"]["wheels"]["strategy"]["matrix"]["runner"]
    assert [re.sub(r"-[\d.]+", "", runner) for runner in runners] == [
        "ubuntu",
        "ubuntu-arm",
        "macos",
    ]


def test_wheels_are_built_without_cuda_and_tested_by_tests_that_exist(
    project: dict[str, Any],
) -> None:
    wheels = project["tool"]["cibuildwheel"]
    for settings in (wheels, wheels["macos"]):
        assert settings["environment"]["CMAKE_ARGS"] == "-DADAK_CUDA=OFF"
    files = [word for word in shlex.split(wheels["test-command"]) if word.endswith(".py")]
    assert len(files) >= 3
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert all(name.startswith(tuple(wheels["test-sources"])) for name in files)


def test_what_is_published_was_built_and_checked_and_no_secret_is_named(
    workflow: dict[str, Any],
) -> None:
    publish = workflow["jobs"]["publish"]
    assert set(publish["needs"]) == {"wheels", "sdist"}
    assert publish["permissions"] == {"id-token": "write"}
    assert "refs/tags/v" in publish["if"]
    assert workflow["permissions"] == {"contents": "read"}
    checks = [step.get("run", "") for step in workflow["jobs"]["sdist"]["steps"]]
    assert any("twine check --strict" in check for check in checks)
    text = WORKFLOW.read_text(encoding="utf-8")
    assert not re.search(r"secrets\.|password|api[-_]token", text, re.IGNORECASE)
