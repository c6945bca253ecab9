"""The gate on what Triton compiles: what it reads, and planted faults."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpu_ladder.static import checks, cuda_gate, toolchain, triton_gate
from gpu_ladder.static.checks import Budget
from gpu_ladder.static.facts import Kernel

MODULE = "listed_triton_kernels"

reason = toolchain.missing() or (
    "no Triton" if triton_gate.missing("gpu_ladder.static.facts") else None
)
pytestmark = [
    pytest.mark.skipif(reason is not None, reason=f"build gate: {reason}"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET", "0") != "0", reason="Triton interprets in this process"
    ),
]


@pytest.fixture(scope="module")
def listed() -> Iterator[list[Kernel]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("TRITON_CACHE_DIR", str(cuda_gate.ROOT / "build/gpu_ladder/triton"))
        yield triton_gate.gate(MODULE)
        sys.modules.pop(MODULE, None)


def test_what_is_read_from_triton_kernels(listed: list[Kernel]) -> None:
    names = [
        "added_kernel", "doubled_kernel", "doubled_kernel<aligned>", "doubled_kernel<contracts>",
    ]  # fmt: skip
    assert [(k.architecture, k.name) for k in listed] == [
        (architecture, name) for architecture in cuda_gate.ARCHITECTURES for name in names
    ]
    for kernel in listed:
        assert (kernel.group, kernel.threads) == ("Triton", 128)
        assert 8 <= kernel.resources.registers <= 64
        assert kernel.resources.static_shared_bytes == 0
        assert kernel.dynamic_shared_bytes == (16 if kernel.name == "added_kernel" else 0)


def test_loads_are_vectors_where_addresses_are_known_to_be_aligned(listed: list[Kernel]) -> None:
    budgets = [
        Budget("doubled_kernel<c*", registers=64, contraction=True, why="planted"),
        Budget("doubled_kernel*", registers=64, vector_loads=2, vector_stores=2),
        Budget("added_kernel", registers=64, also_stores=(4,), float_atomics=True, why="planted"),
    ]
    found = checks.check(listed, budgets)
    assert {v.kernel for v in found} == {"doubled_kernel"}
    assert {v.budget for v in found} == {
        "global loads", "global stores", "16-byte loads", "16-byte stores",
    }  # fmt: skip
    scalar = [v for v in found if v.budget == "global loads"]
    assert [(v.architecture, v.found) for v in scalar] == [
        (architecture, "8 x 4 B") for architecture in cuda_gate.ARCHITECTURES
    ]


def test_a_float_atomic_is_named(listed: list[Kernel]) -> None:
    added = [kernel for kernel in listed if kernel.name == "added_kernel"]
    found = checks.check(added, [Budget("*", registers=64)])
    assert [(v.architecture, v.budget, v.found) for v in found] == [
        (architecture, "float atomics", "1") for architecture in cuda_gate.ARCHITECTURES
    ]


def test_sums_that_the_assembler_may_fuse_are_named(listed: list[Kernel]) -> None:
    doubled = [kernel for kernel in listed if kernel.name.startswith("doubled_kernel<")]
    found = checks.check(doubled, [Budget("*", registers=64)])
    assert {v.kernel for v in found} == {"doubled_kernel<contracts>"}
    assert [(v.budget, v.found) for v in found] == [("contraction", "8 without a rounding")] * 4
