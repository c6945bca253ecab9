"""What Triton makes of small kernels, for each architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx_support import ARCHITECTURES, ORDERS, aligned

from gpu_ladder.ptx import PtxNotImplementedError, Report

pytest.importorskip("triton", reason="triton is missing")
from ptx_triton_kernels import translated

architectures = pytest.mark.parametrize("architecture", [int(one) for one in ARCHITECTURES])
NUMPY = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}


def run(
    name: str,
    architecture: int,
    types: dict[str, str],
    constants: dict[str, Any],
    grid: int,
    arguments: list[Any],
    order: str,
) -> Report:
    pointers = tuple(index for index, kind in enumerate(types.values()) if kind.startswith("*"))
    kernel, shared, threads = translated(
        name, architecture, tuple(types.items()), tuple(constants.items()), pointers
    )
    # Two pointers to scratch memory follow, which these kernels do not use.
    arguments = [*arguments, *[0] * (len(kernel.params) - len(arguments))]
    return kernel.launch((grid,), (threads,), arguments, shared_bytes=shared, order=order)


def stored(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The bits of a type, and their values."""
    if kind == "bf16":
        bits = aligned((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
        return bits, (bits.astype(np.uint32) << 16).view(np.float32)
    narrow = aligned(values.astype(NUMPY[kind]))
    return narrow, narrow.astype(np.float32)


@architectures
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_softmax(architecture: int, kind: str) -> None:
    x, values = stored(np.random.default_rng(0).standard_normal((3, 200)), kind)
    results = []
    for order in ORDERS:
        y = aligned(np.zeros((3, 200), np.float32))
        types = {"x_ptr": f"*{kind}", "y_ptr": "*fp32", "columns": "i32"}
        report = run("softmax_rows", architecture, types, {"BLOCK": 256}, 3, [x, y, 200], order)
        report.raise_on_findings()
        results.append(y.tobytes())
    powers = np.exp(values.astype(np.float64) - values.max(1, keepdims=True))
    np.testing.assert_allclose(y, powers / powers.sum(1, keepdims=True), rtol=2e-6)
    assert len(set(results)) == 1


@architectures
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_transpose_through_shared_memory(architecture: int, kind: str) -> None:
    x, _ = stored(np.random.default_rng(1).standard_normal((64, 64)), kind)
    for order in ORDERS:
        y = aligned(np.zeros_like(x))
        types = {"x_ptr": f"*{kind}", "y_ptr": f"*{kind}"}
        run(
            "transpose_tile", architecture, types, {"SIZE": 64}, 1, [x, y], order
        ).raise_on_findings()
        assert (y == x.T).all()


@pytest.mark.parametrize("architecture", [80, 120])
@pytest.mark.parametrize(
    ("kind", "precision", "bound"),
    [
        ("bf16", "ieee", 1e-5),
        ("fp16", "ieee", 1e-5),
        ("fp32", "tf32", 0.05),
        ("fp32", "ieee", 2e-5),
    ],
)
def test_products(architecture: int, kind: str, precision: str, bound: float) -> None:
    source = np.random.default_rng(2)
    a, a_values = stored(source.standard_normal((64, 64)), kind)
    b, b_values = stored(source.standard_normal((64, 64)), kind)
    results = []
    for order in ORDERS:
        c = aligned(np.zeros((64, 64), np.float32))
        types = {"a_ptr": f"*{kind}", "b_ptr": f"*{kind}", "c_ptr": "*fp32"}
        constants = {"SIZE": 64, "PRECISION": precision}
        run("product", architecture, types, constants, 1, [a, b, c], order).raise_on_findings()
        results.append(c.tobytes())
    assert np.abs(c - a_values.astype(np.float64) @ b_values).max() < bound
    assert len(set(results)) == 1


@pytest.mark.parametrize("architecture", [90, 100])
def test_products_of_whole_warp_groups_are_refused(architecture: int) -> None:
    types = {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp32"}
    constants = {"SIZE": 64, "PRECISION": "ieee"}
    with pytest.raises(PtxNotImplementedError, match=r"not implemented: (fence.proxy|tcgen05)"):
        run("product", architecture, types, constants, 1, [], "forward")


@architectures
@pytest.mark.parametrize("order", ORDERS)
def test_atomic_sum(architecture: int, order: str) -> None:
    x = aligned(np.arange(1000), np.float32)
    total = aligned(np.zeros(1, np.float32))
    types = {"x_ptr": "*fp32", "total_ptr": "*fp32", "count": "i32"}
    report = run("add_up", architecture, types, {"BLOCK": 256}, 4, [x, total, 1000], order)
    report.raise_on_findings()
    assert total[0] == 499500


@architectures
def test_a_missing_mask_is_found(architecture: int) -> None:
    x, y = aligned(np.zeros(200, np.float32)), aligned(np.zeros(200, np.float32))
    types = {"x_ptr": "*fp32", "y_ptr": "*fp32", "count": "i32"}
    report = run("unmasked", architecture, types, {"BLOCK": 256}, 1, [x, y, 200], "forward")
    assert report.kinds == {"out_of_bounds"}
    assert report.findings[0].file.endswith("ptx_triton_kernels.py")
