"""What `make compat` runs is what the package claims, and its table says how it went."""

from __future__ import annotations

import json
import re
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

#: Of what an index takes, and of a wheel for one system.
TAG, OF_THIS_MACHINE = "manylinux_2_28_x86_64", "linux_x86_64"
ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "compat"
if not SCRIPT.exists():
    pytest.skip("no .ci here: the tests run away from the sources", allow_module_level=True)


@pytest.fixture(scope="module")
def compat() -> ModuleType:
    loader = SourceFileLoader("compat", str(SCRIPT))
    spec = spec_from_loader("compat", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules["compat"] = module  # for its dataclass
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def test_the_oldest_that_is_claimed_is_run(compat: ModuleType) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (torch,) = re.findall(r'"torch>=([\d.]+)"', project)
    (python,) = re.findall(r'requires-python = ">=([\d.]+)"', project)
    oldest = compat.COMBINATIONS[0]
    assert oldest.torch.startswith(f"torch=={torch}.")
    assert oldest.python == python
    assert "torch" in {c.torch for c in compat.COMBINATIONS}, "the newest"


def test_every_python_that_is_claimed_is_run(compat: ModuleType) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    claimed = set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project))
    assert claimed <= {c.python for c in compat.COMBINATIONS}


def test_the_document_has_a_row_for_each(compat: ModuleType) -> None:
    text = (ROOT / "docs" / "reference" / "versions.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].lstrip("| "): line for line in text.splitlines() if "|" in line}
    for c in compat.COMBINATIONS:
        assert f"| {c.python}" in rows[c.name]
        assert c.torch.removeprefix("torch").removeprefix("==") in rows[c.name]


def test_kernels_for_arm_are_run_by_what_neon_pins(compat: ModuleType) -> None:
    (arm,) = [c for c in compat.COMBINATIONS if c.emulator]
    pins = (ROOT / "requirements" / "neon.txt").read_text(encoding="utf-8").splitlines()
    assert arm.torch in pins
    script = (ROOT / ".ci" / "neon").read_text(encoding="utf-8")
    assert arm.compiler in script
    assert arm.emulator in script


def test_an_emulator_that_is_not_installed_is_said(compat: ModuleType, tmp_path: Path) -> None:
    row = compat.Combination("arm", "3.11", "torch", "sh", "no-such-qemu")
    result, _ = compat.attempt(row, tmp_path, tmp_path / "arm.log")
    assert result == "left out: no-such-qemu is not installed"


def test_the_report_of_a_gpu_is_rehearsed_by_its_own_python(
    compat: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(compat.Log):  # type: ignore[name-defined, misc]
        def run(self, what: str, *command: str | Path, **options: object) -> str:
            asked.append((what, *map(str, command)))
            return "build: at most 240 s\nrehearsed: build done 9 s\n"

    asked: list[tuple[str, ...]] = []
    (row,) = [c for c in compat.COMBINATIONS if c.rehearsal]
    monkeypatch.setattr(compat, "interpreter", lambda version: f"python of {version}")
    said = compat.check(row, tmp_path, tmp_path, Told(None, tmp_path / "log"))
    assert said == "rehearsed: build done 9 s"
    script = ROOT / ".ci" / "gpu_rehearsal"
    assert asked == [("rehearsal", "python of 3.12", str(script))]
    assert script.exists()


def test_ci_reads_the_sources_with_the_oldest_clang(compat: ModuleType) -> None:
    clangs = [c.compiler for c in compat.COMBINATIONS if c.compiler.startswith("clang")]
    oldest = min(clangs, key=lambda name: int(name.rpartition("-")[2]))
    assert f'OLDEST = "{oldest}"' in (ROOT / ".ci" / "syntax").read_text(encoding="utf-8")


def test_its_tests_exist_and_its_names_are_told_apart(compat: ModuleType) -> None:
    assert [name for name in compat.TESTS if not (ROOT / name).exists()] == []
    names = [c.name for c in compat.COMBINATIONS]
    assert len(names) == len(set(names)) > 4


def test_trainers_that_no_requirements_have_are_installed_and_tested(compat: ModuleType) -> None:
    assert [c.name for c in compat.COMBINATIONS if c.trainers] == ["trainers"]
    assert [name for name in compat.TRAINERS.values() if not (ROOT / name).exists()] == []
    guide = (ROOT / "docs" / "guide" / "trainers.md").read_text(encoding="utf-8")
    pins = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "requirements").glob("*.txt"))
    for name in compat.TRAINERS:
        assert f"`{name}`" in guide
        assert name.partition("==")[0] not in pins


@pytest.mark.parametrize("said", ["9 passed in 2s", "4 passed, 5 skipped in 2s"])
def test_a_trainer_that_is_not_there_fails_its_row(
    compat: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """The tests of a library that is not installed are skipped everywhere else."""

    class Told(compat.Log):  # type: ignore[name-defined, misc]
        def run(self, what: str, *command: str | Path, **options: object) -> str:
            asked.append((what, [str(word) for word in command]))
            if what == "build":
                (tmp_path / "some.whl").touch()
            return said if what == "tests" else json.dumps({"overall_tag": TAG}, indent=4)

    asked: list[tuple[str, list[str]]] = []
    source = tmp_path / "source"
    (source / "python_tests").mkdir(parents=True)
    (source / "pyproject.toml").touch()
    monkeypatch.setattr(compat, "interpreter", lambda version: sys.executable)
    monkeypatch.setattr(compat, "install_torch", lambda *_: None)
    row = compat.Combination("trainers", "3.11", "torch", "sh", trainers=True)
    given = (row, tmp_path / "s.tar.gz", tmp_path, Told(None, tmp_path / "log"))
    if "skipped" in said:
        with pytest.raises(compat.FailedError, match="5 skipped"):
            compat.check(*given)
    else:
        assert compat.check(*given).startswith(said)
    (installed,) = (words for what, words in asked if what == "trainers")
    (tested,) = (words for what, words in asked if what == "tests")
    assert installed[-len(compat.TRAINERS) :] == list(compat.TRAINERS)
    assert tested[-len(compat.TRAINERS) :] == list(compat.TRAINERS.values())


def test_of_what_torch_asks_for_a_cpu_needs_no_compiler_and_no_solver(compat: ModuleType) -> None:
    kept = ["numpy", "sympy==1.13.1", "nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12"]
    kept += ["cuda-toolkit[cublas,cusolver,nvrtc,nvtx]==13.0.3"]  # torch 2.14 needs most of it
    left_out = ["triton==3.2.0", "nvidia-cusolver-cu12==11.6.1.9", "nvidia-nvtx-cu12"]
    left_out += ["nvidia-cuda-nvrtc-cu12==12.4.127", "cuda-bindings<14,>=13.0.3"]
    assert [name for name in kept + left_out if compat.NOT_FOR_CPU.match(name)] == left_out


def test_what_is_not_installed_is_left_out_and_said(compat: ModuleType, tmp_path: Path) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    rows = [
        compat.Combination("no-python", "3.99", "torch", "g++"),
        compat.Combination("no-compiler", here, "torch", "no-such-g++"),
    ]
    results = [compat.attempt(row, tmp_path, tmp_path / f"{row.name}.log") for row in rows]
    lines = compat.table(rows, results).splitlines()
    assert len(lines) == 3
    assert lines[1].endswith("left out: Python 3.99 is not installed")
    assert lines[2].endswith("left out: no-such-g++ is not installed")
    assert compat.status(results) == 1, "nothing has passed"
    passed = ("passed: 9 passed", 1.0)
    assert compat.status([*results, passed]) == 0
    assert compat.status([passed, ("failed: build", 1.0)]) == 1


@pytest.mark.parametrize(
    ("tag", "of_symbols", "libraries", "expected"),
    [
        (TAG, TAG, {}, TAG),
        (OF_THIS_MACHINE, OF_THIS_MACHINE, {}, "this system alone, newer than auditwheel knows"),
        (OF_THIS_MACHINE, TAG, {"libomp.so.5": None}, None),
        (OF_THIS_MACHINE, OF_THIS_MACHINE, {"libomp.so.5": None}, None),
        (OF_THIS_MACHINE, TAG, {}, None),
    ],
    ids=["manylinux", "newer", "a library", "newer, and a library", "its instructions"],
)
def test_a_wheel_that_not_every_linux_takes_fails(
    compat: ModuleType,
    tmp_path: Path,
    tag: str,
    of_symbols: str,
    libraries: dict[str, None],
    expected: str | None,
) -> None:
    class Said(compat.Log):  # type: ignore[name-defined, misc]
        def run(self, what: str, *command: str | Path, **options: object) -> str:
            asked.append(" ".join(map(str, command[1:])))
            found = {"overall_tag": tag, "sym_tag": of_symbols, "external_libs": libraries}
            return f"a {{warning}}\n{json.dumps(found, indent=4)}\n"

    asked: list[str] = []
    log = Said(None, tmp_path / "log")
    given = (tmp_path / "s.tar.gz", tmp_path / "w.whl", "python", tmp_path / "tools", log)
    if expected is not None:
        assert compat.as_an_index_asks(*given) == expected
    else:
        with pytest.raises(compat.FailedError, match="no manylinux tag"):
            compat.as_an_index_asks(*given)
    assert asked[-2:] == [f"check --strict {given[0]} {given[1]}", f"show --json {given[1]}"]


def test_a_step_that_fails_is_named_with_its_log(
    compat: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat, "interpreter", lambda version: "/bin/false")
    row = compat.Combination("fails", "3.11", "torch", "sh")
    result, _ = compat.attempt(row, tmp_path, tmp_path / "fails.log")
    assert result == f"failed: environment ({tmp_path / 'fails.log'})"
    assert (tmp_path / "fails.log").read_text().startswith("$ /bin/false -m venv")
