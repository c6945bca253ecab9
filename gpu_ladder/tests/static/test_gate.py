"""The build gate on small kernels: what it reads, and that planted faults fail it by name."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpu_ladder.static import checks, cuda_gate, kept, machine_code, toolchain
from gpu_ladder.static.checks import Budget
from gpu_ladder.static.facts import Kernel

KERNELS = Path(__file__).with_name("kernels")

pytestmark = pytest.mark.skipif(
    toolchain.missing() is not None, reason=f"build gate: {toolchain.missing()}"
)


@pytest.fixture(scope="module")
def sound() -> list[Kernel]:
    return cuda_gate.gate([KERNELS / "sound.cu"])


@pytest.fixture(scope="module")
def faults() -> dict[str, list[Kernel]]:
    found: dict[str, list[Kernel]] = {}
    for kernel in cuda_gate.gate([KERNELS / "faults.cu"]):
        found.setdefault(kernel.name, []).append(kernel)
    return found


def test_what_is_read_from_sound_kernels(sound: list[Kernel]) -> None:
    names = ["sound_kernel<bfloat16, negative, times=3>", "sound_kernel<float32, times=2>"]
    assert [(k.architecture, k.name) for k in sound] == [
        (architecture, name) for architecture in cuda_gate.ARCHITECTURES for name in names
    ]
    for kernel in sound:
        assert (kernel.group, kernel.threads) == ("sound.cu", 128)
        assert 8 <= kernel.resources.registers <= 24
        assert kernel.resources.static_shared_bytes == 2048, "what the driver reserves is not ours"
        assert not kernel.spills
        code = kernel.instructions
        assert code.global_loads == code.global_stores == {16: 1}
        assert code.shared_loads == code.shared_stores == {16: 1}
        assert (code.generic, code.matrix, code.bulk_copies) == (0, 0, 0)
        assert (kernel.ptx.float_atomics, kernel.ptx.integer_atomics) == (0, 0)
        assert kernel.ptx.contractible == 0


def test_sound_kernels_keep_their_budget(sound: list[Kernel]) -> None:
    assert checks.check(sound, [Budget("sound_kernel*", registers=24, occupancy=1.0)]) == []


PLANTED = {
    "spilling_kernel": ("spills", "B of stack", "none"),
    "scalar_kernel": ("global loads", "4 x 4 B", "16 B"),
    "scalar_store_kernel": ("global stores", "4 x 4 B", "16 B"),
    "atomic_kernel": ("float atomics", "1", "none: sums have a fixed order"),
    "greedy_kernel": ("registers", "1", "64"),
    "bytewise_kernel": ("shared accesses", "1 B", "4 B and wider"),
    "crowding_kernel": ("occupancy", "by shared memory", "at least 25.0%"),
    "boundless_kernel": ("threads", "not known", "__launch_bounds__"),
}
#: What comes along with a fault: four scalars instead of a vector leave no vector.
ALONG = {"scalar_kernel": {"16-byte loads"}}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_named(faults: dict[str, list[Kernel]], name: str) -> None:
    """Each on every architecture, by the budget it breaks, and no other is."""
    floor = 0.25 if name == "crowding_kernel" else 0.0
    found = checks.check(faults[name], [Budget("*", registers=64, occupancy=floor)])
    what, seen, allowed = PLANTED[name]
    expected = [v for v in found if v.budget == what]
    assert [v.architecture for v in expected] == list(cuda_gate.ARCHITECTURES)
    for violation in expected:
        assert violation.kernel == name
        assert seen in violation.found
        assert allowed in violation.allowed
    assert {v.budget for v in found} == {what} | ALONG.get(name, set())
    line = next(row for row in checks.table(found).splitlines() if what in row)
    assert line.startswith(name)
    assert "sm_80" in line


def test_every_planted_kernel_has_a_test(faults: dict[str, list[Kernel]]) -> None:
    assert faults.keys() == PLANTED.keys()


def test_kernels_without_a_budget_and_budgets_without_a_kernel(sound: list[Kernel]) -> None:
    found = checks.check(sound[:1], [Budget("moments_kernel*", registers=64)])
    text = checks.table(found)
    assert "sound_kernel<bfloat16, negative, times=3>" in text
    assert "every kernel has one" in text
    assert "every budget has one" in text
    assert len(found) == 2


def test_fewer_vectors_than_promised(sound: list[Kernel]) -> None:
    assert checks.check(sound, [Budget("*", registers=24, vector_stores=1)]) == []
    found = checks.check(sound[:1], [Budget("*", registers=24, vector_loads=2, vector_stores=3)])
    assert [(v.budget, v.found, v.allowed) for v in found] == [
        ("16-byte loads", "1", "2 or more"),
        ("16-byte stores", "1", "3 or more"),
    ]


def test_floors_of_occupancy_by_architecture(faults: dict[str, list[Kernel]]) -> None:
    """48 KiB for a block of 32 threads: 3 blocks on A100, 4 on H100 and B200, 2 on RTX 5090."""
    floors = Budget("*", registers=64, occupancy=0.04, occupancy_on={90: 0.07, 100: 0.06})
    found = checks.check(faults["crowding_kernel"], [floors])
    assert [(v.architecture, v.found, v.allowed) for v in found] == [
        (90, "6.2%, by shared memory", "at least 7.0%")
    ]


def test_the_first_budget_that_matches_holds(sound: list[Kernel]) -> None:
    strict, loose = Budget("*float32*", registers=1), Budget("*", registers=64)
    assert {v.kernel for v in checks.check(sound, [strict, loose])} == {sound[1].name}


def test_an_exception_needs_its_reason() -> None:
    with pytest.raises(ValueError, match=r"'tail_kernel' makes exceptions and gives no reason"):
        Budget("tail_kernel", registers=32, also_loads=(4,))
    assert (
        Budget("tail_kernel", registers=32, also_loads=(4,), why="ends of rows").vector_loads == 1
    )


def test_allowed_exceptions_pass(faults: dict[str, list[Kernel]]) -> None:
    exceptions = {
        "scalar_kernel": Budget(
            "*", registers=64, also_loads=(4,), vector_loads=0, why="planted: rows start anywhere"
        ),
        "atomic_kernel": Budget("*", registers=64, float_atomics=True, why="planted: any order"),
        "bytewise_kernel": Budget("*", registers=64, narrow_shared=True, why="planted: bytes"),
        "boundless_kernel": Budget("*", registers=64, threads=256),
    }
    for name, budget in exceptions.items():
        assert checks.check(faults[name], [budget]) == []


def test_compiled_once_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, header = tmp_path / "sound.cu", tmp_path / "element.h"
    for file in (source, header):
        file.write_text((KERNELS / file.name).read_text())
    calls = []
    compile_really = cuda_gate._compile
    monkeypatch.setattr(
        cuda_gate, "_compile", lambda *given: (calls.append(given[2]), compile_really(*given))
    )

    def compiled(architecture: int) -> cuda_gate.Compiled:
        return cuda_gate.compile_source(source, architecture, cache=tmp_path / "cache")

    first = compiled(90)
    assert compiled(90) == first
    assert compiled(80) != first
    assert calls == [90, 80]
    header.write_text("#pragma once\nusing element = double;\n")
    assert compiled(90) != first
    assert calls == [90, 80, 90], "what a source includes counts as its content"
    assert not list((tmp_path / "cache").glob("tmp*"))


def test_who_wants_the_same_at_once_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of a test run take as long as one, and no more cores."""
    calls = []

    def slowly(
        tools: object,
        source: Path,
        architecture: int,
        include: object,
        made: Path,
        flags: object,
    ) -> None:
        calls.append(architecture)
        time.sleep(0.2)
        made.mkdir()

    monkeypatch.setattr(cuda_gate, "_compile", slowly)
    with ThreadPoolExecutor(3) as pool:
        wanted = [90, 90, 80]
        found = list(
            pool.map(
                lambda number: cuda_gate.compile_source(KERNELS / "sound.cu", number, (), tmp_path),
                wanted,
            )
        )
    assert sorted(calls) == [80, 90]
    assert found[0] == found[1] != found[2]
    assert all(compiled.cubin.parent.is_dir() for compiled in found)


def test_machine_code_is_read_once_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = cuda_gate.compile_source(KERNELS / "sound.cu", 90)
    first = kept.read(toolchain.require(), compiled.cubin, 90, tmp_path)
    assert [code.global_loads for _, code in first.values()] == [{16: 1}] * 2
    monkeypatch.setattr(machine_code, "instructions", lambda *given: pytest.fail("read again"))
    assert kept.read(toolchain.require(), compiled.cubin, 90, tmp_path) == first
    assert len(list((tmp_path / "facts").iterdir())) == 1
    other = cuda_gate.compile_source(KERNELS / "called.cu", 90)
    with pytest.raises(pytest.fail.Exception, match="read again"):
        kept.read(toolchain.require(), other.cubin, 90, tmp_path)


def test_what_nvcc_refuses(tmp_path: Path) -> None:
    broken = tmp_path / "broken.cu"
    broken.write_text("__global__ void broken_kernel() { undeclared(); }\n")
    with pytest.raises(cuda_gate.CompileError, match=r"(?s)nvcc refuses .*broken.cu for sm_80.*"
                       r"undeclared"):  # fmt: skip
        cuda_gate.gate([broken], cache=tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()], "failures are not kept"


def test_functions_that_are_called_count_too() -> None:
    [kernel] = cuda_gate.gate([KERNELS / "called.cu"], architectures=[90])
    assert kernel.ptx.float_atomics == 1
    assert kernel.instructions.global_stores == {4: 1}


def test_code_that_belongs_to_no_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    read = kept.read
    monkeypatch.setattr(kept, "read", lambda *given: read(*given) | {"_Z5apartf": None})
    with pytest.raises(cuda_gate.CompileError, match=r"holds .*_Z5apartf.*expected are the same"):
        cuda_gate.gate([KERNELS / "called.cu"], architectures=[90])


def test_a_source_without_kernels_has_none(tmp_path: Path) -> None:
    source = tmp_path / "host.cu"
    source.write_text("int host() { return 1; }\n")
    assert cuda_gate.gate([source], architectures=[90], cache=tmp_path / "cache") == []


def test_what_is_looked_at_is_compiled_as_it_is_built() -> None:
    build = cuda_gate.ROOT / "csrc/cuda/build.cmake"
    text = build.read_text(encoding="utf-8")
    assert "--fmad=false" in cuda_gate.FLAGS
    assert "--fmad=false" in text
    assert "-std=c++20" in cuda_gate.FLAGS
    assert "set(CMAKE_CUDA_STANDARD 20)" in text
    assert "use_fast_math" not in text
