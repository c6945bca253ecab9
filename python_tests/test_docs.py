"""The documents speak of files, commands and names that exist."""

from __future__ import annotations

import builtins
import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch

from adadagrad_kernels.cli.arguments import build_parser

ROOT = Path(__file__).parent.parent
if not (ROOT / "README.md").exists():
    pytest.skip("no documents here: the tests run away from the sources", allow_module_level=True)

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TOP = {path.name for path in ROOT.iterdir()}
EXTENSIONS = {".py", ".md", ".cpp", ".h", ".inl", ".txt", ".toml"}

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def _shell(text: str) -> list[str]:
    """Commands of the shell blocks, without comments, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [stripped for line in lines if (stripped := line.split("  #")[0].strip())]


def _missing_links(document: Path, text: str) -> list[str]:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    return [target for target in targets if not (document.parent / target).exists()]


def _missing_paths(text: str) -> list[str]:
    """Paths in backticks that begin at the top of the tree, and C++ and Python files by name."""
    missing = []
    for quoted in re.findall(r"`([\w./<>-]+)`", text):
        pattern = re.sub(r"<[^>]*>", "*", quoted)
        top = pattern.partition("/")[0]
        if (
            "/" in pattern
            and top in TOP - {"build", "dist", "runs"}
            and not any(ROOT.glob(pattern.rstrip("/")))
        ):
            missing.append(quoted)
        if "/" not in pattern and Path(pattern).suffix in EXTENSIONS:
            found = any(ROOT.glob(pattern)) or any(
                any((ROOT / folder).rglob(pattern))
                for folder in ("adadagrad_kernels", "csrc", "python_tests", "benchmarks", "docs")
            )
            if not found:
                missing.append(quoted)
    return missing


def _unknown_targets(text: str) -> list[str]:
    defined = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [command for command in _shell(text) if command.startswith("make ")]
    used = {word for command in commands for word in shlex.split(command)[1:] if "=" not in word}
    used |= set(re.findall(r"`make ([a-z0-9-]+)", text))
    return sorted(used - defined)


def _unknown_names(text: str) -> list[str]:
    """Dotted names of the package in backticks that do not resolve."""
    unknown = []
    for name in re.findall(r"`(adadagrad_kernels(?:\.\w+)+)", text):
        parts = name.split(".")
        value: object = importlib.import_module(parts[0])
        for index, part in enumerate(parts[1:], start=1):
            if not hasattr(value, part):
                try:
                    importlib.import_module(".".join(parts[: index + 1]))
                except ImportError:
                    unknown.append(name)
                    break
            value = getattr(value, part)
    return unknown


@each_document
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not _missing_links(document, text)
    assert not _missing_paths(text)
    assert not _unknown_targets(text)
    assert not _unknown_names(text)


@each_document
def test_command_lines_are_accepted(document: Path) -> None:
    commands = _shell(document.read_text(encoding="utf-8"))
    for command in commands:
        words = shlex.split(command)
        if words[0] == "adadagrad-kernels":
            build_parser().parse_args(words[1:])


def test_the_checks_find_faults() -> None:
    faulty = (
        "[text](nowhere.md) `csrc/cpu/nowhere.cpp` `nowhere.inl` `make nothing` "
        "`adadagrad_kernels.ops.nothing`\n```sh\nmake neither  # nor\n```\n"
    )
    assert _missing_links(ROOT / "README.md", faulty) == ["nowhere.md"]
    assert _missing_paths(faulty) == ["csrc/cpu/nowhere.cpp", "nowhere.inl"]
    assert _unknown_targets(faulty) == ["neither", "nothing"]
    assert _unknown_names(faulty) == ["adadagrad_kernels.ops.nothing"]
    assert _shell("```sh\na \\\n  b  # c\n```\n") == ["a    b"]


def test_every_public_name_is_in_a_document() -> None:
    """Where it is used or explained, which the changelog and the pages of `make docs` do not do."""
    package = importlib.import_module("adadagrad_kernels")
    explained = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
    words = set(re.findall(r"\w+", " ".join(path.read_text() for path in explained)))
    assert set(package.__all__) - words - {"__version__"} == set()


@each_document
def test_public_names_in_documents_are_public(document: Path) -> None:
    """CamelCase calls such as `NormTest(eta)` are names that the package exports."""
    package = importlib.import_module("adadagrad_kernels")
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)(?:\(|`|\.)", document.read_text()))
    internal = {"VecFloat", "VecDouble", "AdagradRule", "ConvGeometry"}
    peers = {"GradSampleModule", "BatchL2Grad", "SumGradSquared"}
    # Of trainers, and of the adapters for them, which nothing imports unasked.
    trainers = {"AdaptiveBatch", "AdaptiveMixin", "AdaptiveTrainer", "TrainingArguments"}
    pipelines = {"ScheduleGPipe"}  # of torch's modules that take long to import
    schedulers = dir(torch.optim.lr_scheduler)
    ours = {*package.__all__, *package.ops.__all__, *package.distributed.__all__}
    known = {*ours, *dir(builtins), *dir(torch.nn), *dir(torch.utils.data), *schedulers}
    assert named - known - internal - peers - trainers - pipelines == set()
