"""The page and the command: tables, --check, exit statuses; on kernels made up for it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu_ladder.static import cuda_gate, report, toolchain, triton_gate
from gpu_ladder.static.checks import Budget
from gpu_ladder.static.excerpt import architectures_of, excerpt
from gpu_ladder.static.facts import Instructions, Kernel, PtxFacts, Resources
from gpu_ladder.static.page import markdown, page

KERNELS = Path(__file__).with_name("kernels")
CODE = Instructions(
    global_loads={16: 6, 4: 2},
    global_stores={16: 3},
    shared_loads={},
    shared_stores={},
    generic=0,
    local_loads=0,
    local_stores=0,
    matrix=0,
    bulk_copies=0,
)
PLAIN = Kernel(
    name="sum_kernel<float32>",
    group="sum.cu",
    architecture=80,
    threads=256,
    dynamic_shared_bytes=0,
    resources=Resources(registers=32, stack_bytes=0, static_shared_bytes=512),
    instructions=CODE,
    ptx=PtxFacts(threads=256, float_atomics=0, integer_atomics=0, contractible=0),
)
BUDGETS = (Budget("sum_kernel*", registers=40, also_loads=(4,), why="ends of rows"),)
VERSIONS = {"nvcc": "13.0.88", "nvdisasm": "13.1.80", "Triton": "3.7.1"}

needs_tools = pytest.mark.skipif(
    toolchain.missing() is not None, reason=f"build gate: {toolchain.missing()}"
)


def _on(architecture: int, **changes: Any) -> Kernel:
    return dataclasses.replace(PLAIN, architecture=architecture, **changes)


def _cells(text: str, kernel: str) -> list[list[str]]:
    """The rows of a kernel in all tables."""
    rows = [line for line in text.splitlines() if line.startswith(f"| `{kernel}`")]
    return [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows]


def test_one_number_where_architectures_agree_and_all_where_not() -> None:
    more = dataclasses.replace(CODE, global_loads={16: 8, 4: 2}, matrix=4)
    greedy = Resources(registers=48, stack_bytes=16, static_shared_bytes=512)
    kernels = [_on(80), _on(90, resources=greedy, instructions=more)]
    resources, accesses = _cells(page(kernels, BUDGETS, VERSIONS, {}, None), PLAIN.name)
    assert resources == [
        "256", "32/48", "none/16 B, 0 + 0", "512", "8/5", "100%/62.5%",
    ]  # fmt: skip
    assert accesses == [
        "6/8 x 16, 2 x 4", "3 x 16", "none", "none", "none", "none/4", "as written",
    ]  # fmt: skip


@pytest.mark.parametrize("wanted", [(90,), (80, 120), (120, 90, 80)])
def test_an_excerpt_is_the_page_of_some_architectures(wanted: tuple[int, ...]) -> None:
    every = (80, 90, 120)
    codes = [
        dataclasses.replace(CODE, global_loads=loads, matrix=matrix)
        for loads, matrix in (({16: 8, 4: 2}, 4), ({16: 6}, 0), ({16: 6, 4: 2}, 4))
    ]
    sizes = [Resources(registers=n, stack_bytes=0, static_shared_bytes=n * 8) for n in (32, 48, 32)]
    kernels = [
        _on(architecture, instructions=code, resources=size)
        for architecture, code, size in zip(every, codes, sizes, strict=True)
    ]
    traffic = [
        {"kernel": "sum_kernel", "case": "64 x 1,000", "architecture": "sm_90", "least_bytes": 4000,
         "moved_bytes": 4100, "sectors_per_request_loads": 16.0,
         "sectors_per_request_stores": 15.5},
    ]  # fmt: skip
    whole = page(kernels, BUDGETS, VERSIONS, {}, traffic)
    some = page([k for k in kernels if k.architecture in wanted], BUDGETS, VERSIONS, {}, traffic)
    assert architectures_of(whole) == every
    assert excerpt(whole, wanted) == excerpt(some, wanted)
    changed = whole.replace("32/48/32", "33/48/32")
    assert changed != whole
    assert (excerpt(changed, wanted) == excerpt(some, wanted)) == (80 not in wanted)


def test_the_order_of_kernels_does_not_matter() -> None:
    kernels = [_on(n, name=name) for n in (80, 90) for name in ("b_kernel", "a_kernel")]
    text = page(kernels, BUDGETS, VERSIONS, {}, None)
    assert text == page(kernels[::-1], BUDGETS, VERSIONS, {}, None)
    assert text.index("a_kernel") < text.index("b_kernel")


def test_every_table_lines_up() -> None:
    traffic = [
        {"kernel": "sum_kernel", "case": "64 x 1,000", "architecture": "sm_90", "least_bytes": 4000,
         "moved_bytes": 4100, "sectors_per_request_loads": 16.0,
         "sectors_per_request_stores": 15.5},
        {"kernel": "a_long_kernel_name", "case": "1 x 1", "architecture": "sm_80", "least_bytes": 4,
         "moved_bytes": 32, "sectors_per_request_loads": 1.0, "sectors_per_request_stores": 1.0},
    ]  # fmt: skip
    kernels = [_on(80), _on(80, name="another_rather_long_kernel<bfloat16>", group="Triton")]
    text = page(kernels, BUDGETS, VERSIONS, {"Triton": "no Triton"}, traffic)
    widths: list[int] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            widths.append(len(line))
            continue
        assert len(set(widths)) <= 1, line
        widths = []
    assert "Executed at PTX level on a CPU; not yet run on a GPU." in text
    assert "Not looked at: no Triton." in text
    first, second = _cells(text, "a_long_kernel_name")[0], _cells(text, "sum_kernel")[0]
    assert first == ["1 x 1", "sm_80", "4", "32", "+700.0%", "1.00", "1.00"]
    assert second == ["64 x 1,000", "sm_90", "4,000", "4,100", "+2.5%", "16.00", "15.50"]


def test_a_table_of_nothing_has_its_head() -> None:
    assert markdown(["kernel", "n"], [], right=1) == "| kernel |   n |\n| ------ | --: |\n"


class _Listed:
    """What a module of Triton kernels lists."""

    name = "doubled_kernel<float32>"
    num_warps = 4

    def __init__(self, cubin: bytes, ptx: str) -> None:
        self._cubin, self._ptx = cubin, ptx

    def cubin(self, architecture: int) -> bytes:
        return self._cubin

    def ptx(self, architecture: int) -> str:
        return self._ptx

    def shared(self, architecture: int) -> int:
        return 8192


@needs_tools
def test_what_is_read_from_a_triton_kernel() -> None:
    compiled = cuda_gate.compile_source(KERNELS / "called.cu", 90)
    listed = _Listed(compiled.cubin.read_bytes(), compiled.ptx.read_text())
    kernel = triton_gate.examine(toolchain.require(), listed, 90)
    assert (kernel.name, kernel.group, kernel.threads) == (_Listed.name, "Triton", 128)
    assert kernel.dynamic_shared_bytes == 8192
    assert kernel.ptx.float_atomics == 1
    resources = _cells(page([kernel], (), VERSIONS, {}, None), _Listed.name)[0]
    assert resources[3] == "0 + 8192"
    two = cuda_gate.compile_source(KERNELS / "sound.cu", 90)
    with pytest.raises(RuntimeError, match="expected is the same one kernel in both"):
        triton_gate.examine(toolchain.require(), _Listed(two.cubin.read_bytes(), "// none"), 90)


def test_why_there_are_no_triton_kernels(tmp_path: Path) -> None:
    reason = triton_gate.missing("gpu_ladder.nowhere.compile")
    assert reason is not None
    assert "Triton" in reason
    with pytest.raises(toolchain.ToolMissingError, match="Triton"):
        triton_gate.gate("gpu_ladder.nowhere.compile")
    with pytest.raises(toolchain.ToolMissingError, match=r"gpu_ladder.static has no kernels\(\)"):
        triton_gate._gate_one(("gpu_ladder.static", 90, tmp_path))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that keep to two sound kernels and a folder of the test."""
    sources = tmp_path / "sources"
    sources.mkdir()
    for name in ("sound.cu", "element.h"):
        (sources / name).write_text((KERNELS / name).read_text())
    (tmp_path / "small_budgets.py").write_text(
        "from gpu_ladder.static.checks import Budget\n"
        "BUDGETS = (Budget('sound_kernel*', registers=24, occupancy=1.0),)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "small_budgets", raising=False)
    monkeypatch.setattr(report, "TRAFFIC", tmp_path / "traffic.json")
    return ["--sources", str(sources), "--include", "--triton", "gpu_ladder.nowhere",
            "--budgets", "small_budgets", "--page", str(tmp_path / "docs/page.md")]  # fmt: skip


@needs_tools
def test_the_command_writes_and_checks_a_page(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([*command, "--check"]) == 1, "there is no page yet"
    assert "page.md is out of date; `make gpu-static` writes it anew" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
    assert report.main(command) == 0
    assert "2 kernels keep their budgets on every architecture" in capsys.readouterr().out
    file = tmp_path / "docs/page.md"
    text = file.read_text()
    assert str(tmp_path) not in text
    assert report.main([*command, "--check"]) == 0
    assert report.main([*command, "--check", "--architectures", "90"]) == 0
    assert "2 kernels keep their budgets on sm_90\n" in capsys.readouterr().out
    file.write_text(text.replace("| none", "| some"))
    assert report.main([*command, "--check", "--architectures", "90"]) == 1
    capsys.readouterr()
    assert report.main([*command, "--check"]) == 1
    assert "+| `sound_kernel" in capsys.readouterr().err
    assert "| some" in file.read_text(), "--check writes nothing"


@needs_tools
def test_a_broken_budget_fails_the_command(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small_budgets.py").write_text(
        "from gpu_ladder.static.checks import Budget\n"
        "BUDGETS = (Budget('sound_kernel<b*', registers=2), Budget('*', registers=24))\n"
    )
    assert report.main(command) == 1
    printed = capsys.readouterr().err
    assert "4 budgets are broken" in printed
    assert "sm_90 sm_100" in printed


@needs_tools
def test_json_and_a_part_of_the_kernels(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([*command, "--only", "bfloat16", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {kernel["architecture"] for kernel in found["kernels"]} == {80, 90, 100, 120}
    assert all("bfloat16" in kernel["name"] for kernel in found["kernels"])
    assert found["broken"] == []
    target = tmp_path / "results/gate.json"
    assert report.main([*command, "--only", "float32", "--architectures", "90", "--json",
                        str(target)]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "| `sound_kernel<float32, times=2>` |" in printed
    assert len(json.loads(target.read_text())["kernels"]) == 1
    assert not (tmp_path / "docs").exists(), "a part of the kernels is no page"
    assert report.main([*command, "--only", "teleport"]) == 2
    assert "no kernel's name contains 'teleport'" in capsys.readouterr().err


def test_a_missing_tool_is_status_2(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing() -> None:
        raise toolchain.ToolMissingError("no nvcc: nowhere; pip install it")

    monkeypatch.setattr(cuda_gate, "require", nothing)
    assert report.main(command) == 2
    assert capsys.readouterr().err == "gpu_ladder.static: no nvcc: nowhere; pip install it\n"


@needs_tools
def test_a_folder_without_sources(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([*command, "--sources", str(tmp_path)]) == 2
    assert "there is no kernel to look at" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        report.main(["--help"])
    printed = capsys.readouterr().out
    for taught in ("Exit status", "examples:", "--check", "another project:", "my.budgets"):
        assert taught in printed
