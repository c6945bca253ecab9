"""The table claims nothing that does not exist, and nothing that is not tested."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ptx_all_definitions import DEFINITIONS
from ptx_blocks import BY_HAND
from ptx_specimens import Specimen, declarations, specimen
from ptx_support import has, tool

from gpu_ladder.ptx import engine
from gpu_ladder.ptx.instructions import ROWS
from gpu_ladder.ptx.table import Row

IN_MEMORY = frozenset(("ld", "st", "atom", "red"))  # test_ptx_memory


def test_every_row_has_a_definition() -> None:
    defined = set(DEFINITIONS) | IN_MEMORY | BY_HAND
    assert {row.opcode for row in ROWS} == defined


def test_no_two_rows_are_the_same() -> None:
    seen: dict[tuple[str, str], Row] = {}
    for row in ROWS:
        for form in row.forms():
            key = (form.text, " ".join(row.arguments.format(**form.captures).split("+")))
            assert seen.get(key, row) in (row,) or row.family == "memory", key
            seen[key] = row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.syntax} {row.arguments}"[:60])
def test_the_engine_has_every_operation(row: Row) -> None:
    widths = {"width": "64"}
    for form in row.forms():
        name = row.engine.format(**widths, **form.captures).replace("set.s32", "set.u32")
        assert name in engine.operations()


def _kernel(name: str, specimens: list[Specimen]) -> str:
    lines = []
    for one in specimens:
        label = {"brx": "TABLE", "call": "function"}.get(one.form.row.opcode, "END")
        lines.append("  " + one.text.replace("LABEL", label))
    body = "\n".join(lines)
    return (
        f".visible .entry {name}(.param .align 16 .b8 parameters[256]) {{\n"
        f"{declarations(specimens)}\n  .reg .b64 %address, %policy;\n"
        "  .param .align 16 .b8 argument[64];\nTABLE: .branchtargets END;\n"
        f"  ld.param.b64 %address, [parameters];\n{body}\nEND:\n  ret;\n}}\n"
    )


@pytest.mark.skipif(not has("ptxas"), reason="ptxas is missing: pip install nvidia-cuda-nvcc")
@pytest.mark.parametrize("since", sorted({row.since for row in ROWS}))
def test_ptxas_takes_every_form(since: str, tmp_path: Path) -> None:
    specimens = [
        specimen(form, (16, 16)) for row in ROWS if row.since == since for form in row.forms()
    ]
    kernels = [
        _kernel(f"kernel{begin}", specimens[begin : begin + 400])
        for begin in range(0, len(specimens), 400)
    ]
    head = f".version 9.0\n.target sm_{since}\n.address_size 64\n"
    head += ".const .align 16 .b8 constants[64];\n.func function() { ret; }\n"
    source = tmp_path / "forms.ptx"
    source.write_text(head + "\n".join(kernels))
    command = [str(tool("ptxas")), "-O0", f"-arch=sm_{since}", str(source), "-o", "/dev/null"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.returncode == 0
