"""`make docs`: every public name is on a page, with its docstring, and no link leads nowhere."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("pdoc", reason="pdoc is not installed; pip install pdoc")

MAKEFILE = Path(__file__).parents[1] / "Makefile"
if not MAKEFILE.exists():
    pytest.skip("no Makefile here: the tests run away from the sources", allow_module_level=True)


def _documented() -> list[str]:
    text = MAKEFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(r"^DOCUMENTED = (.*)$", text, re.MULTILINE)
    assert found is not None
    return shlex.split(found[1])


class _Page(HTMLParser):
    """The anchors of a page, the links in it, and the text behind each anchor."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        if tag == "a" and given.get("href"):
            self.links.add(str(given["href"]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, _Page]:
    folder = tmp_path_factory.mktemp("pages")
    command = [sys.executable, "-m", "pdoc", "--docformat", "google", "--math", "--no-show-source"]
    subprocess.run(
        [*command, "-o", str(folder), *_documented()],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    return {path: _Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}


def test_every_public_name_is_on_a_page(pages: dict[Path, _Page]) -> None:
    by_name = {path.stem: page for path, page in pages.items()}
    for module in _documented():
        page = by_name[module.rpartition(".")[2]]
        public = importlib.import_module(module).__all__
        named = [name for name in public if not name.startswith("__")]
        assert named
        missing = [
            name
            for name in named
            if name not in page.anchors
            # A module among the names has a page of its own.
            and f"{module}.{name}" not in sys.modules
        ]
        assert not missing, f"{module} lacks {missing}"


def test_links_lead_somewhere(pages: dict[Path, _Page]) -> None:
    links = 0
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            other = (path.parent / target).resolve() if target else path
            assert other in pages, f"{path.name}: {link}"
            # What a class has from a private one is on no page.
            owner = anchor.rpartition(".")[0] or anchor
            assert not anchor or {anchor, owner} & pages[other].anchors, f"{path.name}: {link}"
            links += 1
    assert links > 100
