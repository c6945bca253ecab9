"""Finding the tools: in which order, and what is said where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_ladder.static import toolchain
from gpu_ladder.static.toolchain import ToolMissingError


@pytest.fixture(autouse=True)
def _found_anew() -> Iterator[None]:
    _forget()
    yield
    _forget()


def _forget() -> None:
    toolchain.require.cache_clear()
    toolchain.require_compiler.cache_clear()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without NVIDIA's packages, whose PATH is one empty folder."""
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.delenv("NVCC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    return tmp_path


def _program(folder: Path, name: str, says: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)
    return file


def _toolkit(folder: Path) -> Path:
    (folder / "include").mkdir(parents=True)
    (folder / "include/cuda_runtime.h").touch()
    return _program(folder, "bin/nvcc", "release 13.0, V13.0.88")


def test_no_compiler_at_all(bare: Path) -> None:
    with pytest.raises(ToolMissingError, match=r"no nvcc: .*pip install -r requirements/cuda.txt"):
        toolchain.require()
    assert toolchain.missing() is not None
    assert toolchain.occupancy_header() is None


@pytest.mark.parametrize("variable", ["CUDACXX", "NVCC"])
def test_the_environment_names_a_compiler_that_is_not_there(
    bare: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(bare / "nowhere/nvcc"))
    with pytest.raises(ToolMissingError, match=rf"{variable} is '.*nowhere/nvcc', which is no"):
        toolchain.require()


def test_a_compiler_without_its_disassembler(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDACXX", str(_toolkit(bare / "toolkit")))
    with pytest.raises(ToolMissingError, match=r"no nvdisasm: .*Triton brings it"):
        toolchain.require()


def test_all_tools_on_path(bare: Path) -> None:
    nvcc = _toolkit(bare / "toolkit")
    (bare / "nvcc").symlink_to(nvcc)
    for name in ("cuobjdump", "nvdisasm", "c++filt"):
        _program(bare, name, "release 13.1, V13.1.80")
    tools = toolchain.require()
    assert (tools.nvcc_version, tools.nvdisasm_version) == ("13.0.88", "13.1.80")
    assert tools.include == (bare / "toolkit/include").resolve()
    assert tools.nvcc_flags == (f"-L{(bare / 'toolkit/lib').resolve()}",)
    (bare / "toolkit/lib64").mkdir()
    _forget()
    assert toolchain.require().nvcc_flags == (), "a whole toolkit finds its own libraries"


def test_a_tool_that_does_not_run_is_missing(bare: Path) -> None:
    (bare / "nvcc").symlink_to(_toolkit(bare / "toolkit"))
    for name in ("cuobjdump", "nvdisasm", "c++filt"):
        _program(bare, name, "wrong machine")
    with pytest.raises(ToolMissingError, match=r"nvdisasm does not run here .*wrong machine"):
        toolchain.require()


def test_half_a_set_of_packages(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = bare / "nvidia/cu13"
    _toolkit(wheel)
    monkeypatch.setattr(toolchain, "cuda_wheels", lambda: [wheel])
    with pytest.raises(ToolMissingError, match=r"but nvidia-nvvm, which brings nvvm/bin/cicc"):
        toolchain.require()


def test_packages_come_before_path(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = bare / "nvidia/cu13"
    nvcc = _toolkit(wheel)
    for part in toolchain._PARTS:
        (wheel / part).parent.mkdir(parents=True, exist_ok=True)
        (wheel / part).touch()
    other = _toolkit(bare / "other")
    (bare / "nvcc").symlink_to(other)
    for name in ("cuobjdump", "nvdisasm", "c++filt"):
        _program(bare, name, "release 13.1, V13.1.80")
    monkeypatch.setattr(toolchain, "cuda_wheels", lambda: [wheel])
    assert toolchain.require().nvcc == nvcc
    monkeypatch.setenv("NVCC", str(other))
    _forget()
    assert toolchain.require().nvcc == other, "what the environment names comes first"
