"""What a package index shows of the installed package, and where its version stands."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest

import adadagrad_kernels

ROOT = Path(__file__).parent.parent
HERE = metadata("adadagrad-kernels")


def test_the_description_has_no_link_that_leads_nowhere() -> None:
    """Nothing is beside it on an index: a link to a file of the tree would be dead there."""
    text = str(HERE.get_payload() or HERE["Description"])
    assert HERE["Description-Content-Type"] == "text/markdown"
    assert "## Requirements and installation" in text, "the README"
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "`docs/reference/speed.md`" in text, "the file is named in the place of the link"


def test_who_made_it_where_it_comes_from_and_what_it_runs_on() -> None:
    assert HERE["Author"]
    assert HERE["License-Expression"] == "Apache-2.0"
    assert all(", https://" in address for address in HERE.get_all("Project-URL"))
    versions = {
        found[1]
        for classifier in HERE.get_all("Classifier")
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
    }
    assert {"3.10", "3.11", "3.12", "3.13", "3.14"} <= versions
    assert HERE["Requires-Python"] == ">=3.10"


def test_the_version_stands_in_one_place_and_has_its_changes() -> None:
    version = adadagrad_kernels.__version__
    assert HERE["Version"] == version
    if not (ROOT / "CHANGELOG.md").exists():
        pytest.skip("no documents here: the tests run away from the sources")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## \[(.*?)\](.*)$", changes, re.MULTILINE)
    assert titles[0] == ("Unreleased", "")
    assert titles[1][0] == version
    assert all(re.fullmatch(r" - \d{4}-\d{2}-\d{2}", date) for _, date in titles[1:])
    for name in ("pyproject.toml", "setup.py", "CITATION.cff"):
        assert version not in re.findall(r"[\d.]+", (ROOT / name).read_text(encoding="utf-8"))
