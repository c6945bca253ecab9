"""Kernels compiled ahead of time, as a device's own launch would specialise them."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed; pip install triton")

from adadagrad_kernels.backends import triton as backend
from adadagrad_kernels.backends.rule import AdagradRule
from gpu_ladder.triton_checks.compile import ARCHITECTURES, compile_for, kernels, specialize
from gpu_ladder.triton_checks.listing import recorded

ROOT = Path(__file__).resolve().parents[3]


def _sweep(grads: torch.Tensor):
    return recorded(lambda: backend.batch_moments(grads, True, True))[0]


def _widths(ptx: str, kind: str) -> set[int]:
    """Bytes of a thread's loads or stores of global memory."""
    found = re.findall(rf"{kind}\.global[\w.:]*?(?:\.v(\d))?\.b(\d+)", ptx)
    return {int(count or 1) * int(bits) // 8 for count, bits in found}


@pytest.mark.parametrize("dtype", backend.DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_aligned_tiles_are_loaded_by_sixteen_bytes(architecture: int, dtype: torch.dtype) -> None:
    compiled, _ = compile_for(_sweep(torch.empty(64, 4096, dtype=dtype)), architecture)
    assert _widths(compiled.ptx, "ld") == {16}
    assert compiled.scratch_bytes == 0


@pytest.mark.parametrize(
    "grads",
    [
        torch.empty(64, 4097),
        torch.empty(64, 4098)[:, :4096],
        torch.empty(64 * 4096 + 1)[1:].view(64, 4096),
    ],
    ids=["columns", "stride", "address"],
)
def test_unaligned_tiles_are_not(grads: torch.Tensor) -> None:
    compiled, _ = compile_for(_sweep(grads), 90)
    assert _widths(compiled.ptx, "ld") == {4}


@pytest.mark.parametrize("samples", [(33, 48, 64), (257, 513, 1000)], ids=["whole", "cut"])
def test_sizes_do_not_multiply_kernels(samples: tuple[int, ...]) -> None:
    """One kernel for all numbers of rows of a tile, and of columns of an alignment."""
    keys = {
        tuple(
            specialize(launch, 90).key
            for launch in recorded(
                lambda n=count, f=features: backend.batch_moments(torch.empty(n, f), True, True)
            )
        )
        for count in samples
        for features in (1024, 1028, 68, 4100)
    }
    assert len(keys) == 1


def test_sizes_beyond_32_bits_compile_and_have_64() -> None:
    tensors = [torch.empty(8) for _ in range(3)]
    launch = recorded(
        lambda: backend.adagrad_step_(*([t] for t in tensors), AdagradRule(0.1, 1e-10, 0.0, False))
    )[0]
    arguments = list(launch.arguments)
    arguments[3] = (2**33 + 3,)
    compiled, special = compile_for(dataclasses.replace(launch, arguments=tuple(arguments)), 90)
    assert ("i64", 2**33 + 3) in special.arguments
    assert 16 in _widths(compiled.ptx, "st")


def test_lists_do_not_multiply_kernels() -> None:
    keys = set()
    for shapes in ([1, 2], [16, 32, 1], [1024] * 5):
        lists = [[torch.empty(size) for size in shapes] for _ in range(3)]
        run = lambda lists=lists: backend.adagrad_step_(*lists, AdagradRule(0.1, 1e-10, 0.0, False))  # noqa: E731
        keys.add(specialize(recorded(run)[0], 90).key)
    assert len(keys) == 1


def test_three_hundred_tensors_are_ten_launches_and_a_sum() -> None:
    lists = [[torch.empty(1000) for _ in range(300)] for _ in range(3)]
    launches = recorded(lambda: backend.adagrad_step_(*lists, AdagradRule(0.1, 1e-10, 0.0, False)))
    assert [launch.kernel.__name__ for launch in launches] == [
        *["adagrad_step_kernel"] * 10,
        "add_span_kernel",
    ]


def test_arguments_are_in_the_order_of_the_parameters() -> None:
    grads = torch.empty(64, 4096)
    compiled, special = compile_for(_sweep(grads), 90)
    kinds = [kind for kind, _ in special.arguments]
    assert kinds[:4] == ["*fp32", "i32", "i32", "i32"]
    assert [value for _, value in special.arguments[1:4]] == [4096, 64, 4096]
    assert special.arguments[0][1].data_ptr() == grads.data_ptr()
    declared = re.findall(r"\.param \.(\w+)", compiled.ptx.partition(".entry")[2].partition(")")[0])
    expected = ["u64" if kind.startswith("*") else "u32" for kind in kinds] + ["u64", "u64"]
    assert declared == expected


def test_the_list_for_the_build_gate_names_every_kernel_once() -> None:
    listed = kernels()
    names = [kernel.name for kernel in listed]
    assert len(set(names)) == len(names)
    sources = "".join(
        path.read_text() for path in (ROOT / "adadagrad_kernels/backends/triton").rglob("*.py")
    )
    defined = set(re.findall(r"^def (\w+)_kernel\(", sources, re.MULTILINE))
    assert {name.split()[0] for name in names} == defined
    first = listed[0]
    assert first.shared(90) >= 0
    assert first.num_warps in (1, 2, 4, 8)
    assert first.cubin(90)[:4] == b"\x7fELF"
    assert ".visible .entry" in first.ptx(90)


def test_interpreted_kernels_are_refused() -> None:
    code = (
        "import torch\n"
        "from adadagrad_kernels.backends import triton as backend\n"
        "from gpu_ladder.triton_checks.compile import specialize\n"
        "from gpu_ladder.triton_checks.listing import recorded\n"
        "launch = recorded(lambda: backend.batch_moments(torch.ones(2, 4), True, True))[0]\n"
        "try:\n    specialize(launch, 90)\n"
        "except ValueError as error:\n    print(error)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"TRITON_INTERPRET": "1", "HOME": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "without TRITON_INTERPRET" in child.stdout
