"""`python -m gpu_ladder check`: what it finds, how it says so, and what it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpu_ladder.check import cuda_source
from gpu_ladder.check.launches import DescriptionError

FAULTS = Path(__file__).parent / "faults.cu"


def test_every_fault_is_found_and_nothing_else(checked: Any) -> None:
    status, rungs = checked(FAULTS)
    assert status == 1
    for rung, answer in rungs.items():
        assert "result" in answer, (rung, answer)
        launches = answer["result"]["launches"]
        assert len(launches) == 8
        found: dict[str, set[str]] = {name: set() for name in launches}
        for one in answer["result"]["findings"]:
            found[one["launch"]].add(one["kind"])
        sound = {name for name in launches if name.startswith("nothing")}
        expected = {name: set() if name in sound else {name} for name in launches}
        assert found == expected, rung


def test_one_kernel_is_checked_by_its_name_and_the_text_says_where(command: Any) -> None:
    done = command("check", f"{FAULTS}:beyond", "--rungs", "checked", "--traffic")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "source, checked: 2 launches, 1 finding"
    assert lines[1].startswith("  out_of_bounds in out_of_bounds at ")
    assert lines[1].endswith("faults.cu:18")
    assert any("loads 4 bytes a thread" in line for line in lines)


@pytest.mark.nightly
def test_sanitizers_end_the_process_at_the_first_fault(checked: Any) -> None:
    status, rungs = checked(f"{FAULTS}:beyond", "--rungs", "sanitized")
    assert status == 1
    (one,) = rungs["sanitized"]["result"]["findings"]
    assert one["kind"] == "crash"
    assert "AddressSanitizer: heap-buffer-overflow" in one["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kernel.txt"], "kernel.txt is neither a .cu nor a .py file"),
        (["nowhere.cu"], "there is no file nowhere.cu"),
        ([FAULTS, "--launches", "nowhere.py"], "described nowhere"),
        ([FAULTS, "--rungs", "gpu"], "have no rung 'gpu'; accepted are checked, ptx, sanitized"),
    ],
)
def test_what_cannot_be_checked_is_said(command: Any, arguments: list[Any], message: str) -> None:
    done = command("check", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_compiler_that_is_not_there_is_said(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = command("check", FAULTS, "--rungs", "sanitized")
    assert done.returncode == 2
    assert "sanitized: not checked: there is no compiler no-such-compiler" in done.stdout


def test_errors_of_a_description_are_said(command: Any, tmp_path: Path) -> None:
    described = tmp_path / "wrong.py"
    described.write_text(
        "from gpu_ladder.check import Launch\n"
        "def launches():\n"
        "    yield Launch('turned', 1, {'x': 1.5, 'y': None}, 32)\n"
    )
    done = command("check", FAULTS, "--launches", described, "--rungs", "checked")
    assert done.returncode == 2
    assert "checked: not checked: x is float, for a parameter of 8 bytes" in done.stdout
    described.write_text("def launches():\n    return []\n")
    done = command("check", FAULTS, "--launches", described, "--rungs", "checked")
    assert done.returncode == 2
    assert "launches() has no launch of anything" in done.stdout


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("torch", "ptx: left out: No module named torch; torch and triton come with the extra"),
        ("measures_of_mine", "ptx: not checked: Traceback"),
    ],
)
def test_modules_that_are_not_there_are_said(
    command: Any, tmp_path: Path, module: str, said: str
) -> None:
    described = tmp_path / "kernels.py"
    described.write_text(
        f"raise ModuleNotFoundError('No module named {module}', name={module!r})\n"
    )
    done = command("check", described, "--rungs", "ptx")
    assert done.returncode == 2
    assert said in done.stdout


def test_help_teaches(command: Any) -> None:
    done = command("check", "--help")
    assert done.returncode == 0
    for word in ("def launches():", "Output(1000, np.float32)", "sanitized", "exit status"):
        assert word in done.stdout


def host(tmp_path: Path, text: str) -> str:
    source = tmp_path / "kernel.cu"
    source.write_text(text)
    return cuda_source.for_the_host(source).split("\n", 1)[1]


def test_shared_arrays_without_a_size_become_pointers_on_their_lines(tmp_path: Path) -> None:
    text = "__global__ void k() {\n  // extern __shared__ int no[];\n  extern __shared__\n"
    text += "  __align__(16) unsigned char raw[];\n  raw[0] = 1;\n}\n"
    changed = host(tmp_path, text)
    assert changed.count("\n") == text.count("\n")
    assert "// extern __shared__ int no[];" in changed
    pointer = "unsigned char* const raw = static_cast<unsigned char*>(::gpu_ladder::dynamic_shared"
    assert pointer in changed
    assert changed.splitlines()[4] == "  raw[0] = 1;"


def test_what_the_cpu_cannot_have_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match=r"kernel.cu:2: tile is declared outside"):
        host(tmp_path, "\nextern __shared__ float tile[];\n")
    with pytest.raises(DescriptionError, match=r"kernel.cu:3: a launch by <<<\.\.\.>>>"):
        host(tmp_path, "// k<<<1, 2>>>();\nvoid f() {\n  k<<<1, 2>>>();\n}\n")
    host(tmp_path, "#ifdef __CUDACC__\nvoid f() { k<<<1, 2>>>(); }\n#endif\n")
