"""What the GPU report measures: cases, the bytes they must move, and contenders that run."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from adadagrad_kernels import ops
from adadagrad_kernels.backends import BACKENDS
from benchmarks.gpu import contenders
from benchmarks.gpu.contenders import COPY, Workbench
from benchmarks.gpu.plan import plan


def test_the_plan_counts_the_least_bytes() -> None:
    bench = Workbench("cpu", 1 << 20, ("cuda",), compiled=False)
    least = {(case.op, case.title): case.least_bytes for case in plan(bench)}
    rows, features = 64, 4096
    everything = "mean, norms, variance, inner products"
    assert least["batch_moments", f"64 rows of 4,096, float32; {everything}"] == (
        4 * rows * features + 8 * features + 16 * rows
    )
    assert least["batch_moments", "64 rows of 4,096, float32; mean, norms"] == (
        4 * rows * features + 4 * features + 8 * rows
    )
    assert least["batch_adagrad_step_", "64 rows of 8,192, bfloat16; all outputs"] == (
        2 * rows * 8192 + (4 * 2 + 8) * 8192 + 16 * rows
    )
    assert least["adagrad_step_", "one tensor of 65,536, float32"] == 20 * 65536
    assert least["adagrad_step_", "300 tensors of 1,000, float32"] == 20 * 300_000
    assert least["adagrad_norm_step_", "one tensor of 65,536, bfloat16"] == 8 * 65536
    layer = "64 samples of 128, 64 to 64, float32; all outputs"
    assert least["linear_moments", layer] == (2 * 4 * 64 * 128 * 64 + 2 * 4 * 65 * 64 + 16 * 64)
    odd = [title for op, title in least if "odd addresses" in title]
    assert len(odd) == 2
    assert "64 rows of 4,033, float32" in odd[0]


def test_the_plan_has_every_op_output_and_type() -> None:
    bench = Workbench("cpu", 1 << 20, ("cuda", "triton"), compiled=True)
    cases = list(plan(bench))
    assert len({(case.op, case.title) for case in cases}) == len(cases)
    measured = {case.op for case in cases}
    assert measured == {name for name in ops.__all__ if hasattr(torch.ops.adadagrad_kernels, name)}
    outputs = {case.title.partition("; ")[2] for case in cases if case.op == "batch_moments"}
    assert outputs == {
        "mean, norms", "mean, norms, variance", "mean, norms, inner products",
        "mean, norms, variance, inner products",
    }  # fmt: skip
    for dtype in ("float32", "bfloat16", "float16"):
        kernels = {"batch_moments", "adagrad_step_", "adagrad_norm_step_", "linear_moments"}
        assert {case.op for case in cases if dtype in case.title} >= kernels
    together = [case for case in cases if "300 tensors" in case.title]
    assert len(together) == 2
    assert not any(case.flush for case in together)
    assert all(case.flush for case in cases if case not in together)


def test_every_contender_runs() -> None:
    """On a CPU, with backends that it has, on little data."""
    ours = tuple(name for name in ("reference", "cpu") if BACKENDS[name].unavailable() is None)
    bench = Workbench("cpu", 1 << 15, ours, compiled=False)
    names: dict[str, set[str]] = {}
    for case in plan(bench):
        calls = case.contenders()
        assert {*ours, COPY} <= calls.keys(), case.title
        for name, call in calls.items():
            call()
            names.setdefault(case.op, set()).add(name)
    assert {"torch, plain", "torch, by_matrix_products", "torch, by_elements"} <= names[
        "batch_moments"
    ]
    assert {"torch, Adagrad(fused=True)", "torch, Adagrad(foreach=True)",
            "our Adagrad, reference"} <= names["adagrad_step_"]  # fmt: skip
    assert "torch, foreach" in names["adagrad_norm_step_"]
    for op in ("linear", "conv", "norm_layer", "embedding"):
        assert "torch, gradient alone" in names[f"{op}_moments"]
    assert "torch, sum and count" in names["sparse_mean_step_"]


def test_an_op_without_a_kernel_for_the_device_is_named_reference() -> None:
    bench = Workbench("cpu", 1 << 15, ("cuda", "triton"), compiled=False)
    asked = [case for case in plan(bench) if case.op in ("norm_layer_moments", "conv_moments")]
    names = {"cuda", "triton", "reference"}
    ours = {case.op: names & case.contenders().keys() for case in asked}
    assert ours == {"norm_layer_moments": {"triton"}, "conv_moments": {"cuda", "triton"}}
    bench = Workbench("cpu", 1 << 15, ("cuda",), compiled=False)
    asked = [case for case in plan(bench) if case.op == "norm_layer_moments"]
    assert {case.op: names & case.contenders().keys() for case in asked} == {
        "norm_layer_moments": {"reference"}
    }


def test_gradients_alone_are_those_of_our_ops() -> None:
    """Torch's own way to each layer's gradient computes what stands beside it."""
    bench = Workbench("cpu", 1 << 15, ("reference",), compiled=False)
    compared = set()
    for case in plan(bench):
        if "float32" not in case.title or "torch, gradient alone" not in (
            calls := case.contenders()
        ):
            continue
        ours, theirs = calls["reference"](), calls["torch, gradient alone"]()
        parts = [t for t in theirs if t is not None] if isinstance(theirs, tuple) else [theirs]
        torch.testing.assert_close(
            ours.weight_grad.view_as(parts[0]), parts[0], rtol=1e-4, atol=1e-3
        )
        compared.add(case.op)
    assert compared == {f"{op}_moments" for op in ("linear", "conv", "norm_layer", "embedding")}


def test_compiled_contenders_take_part_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, *, dynamic: call)
    bench = Workbench("cpu", 1 << 15, ("reference",), compiled=True)
    first = next(iter(plan(bench))).contenders()
    assert {"torch.compile, plain", "torch.compile, by_elements"} <= first.keys()
    later = [c for c in plan(bench) if c.title.startswith("one tensor")]
    assert len(later) == 6
    for case in later:
        case.contenders()["torch.compile"]()


def test_the_expressions_of_torch_do_what_our_ops_do() -> None:
    bench = Workbench("cpu", 1 << 15, ("reference",), compiled=False)
    params, grads = [bench.numbers(n) for n in (7, 64)], [bench.numbers(n) for n in (7, 64)]
    ours, theirs = ([p.clone() for p in params] for _ in range(2))
    sums, other_sums = ([torch.ones_like(p) for p in params] for _ in range(2))
    ops.adagrad_step_(ours, grads, sums, lr=contenders.LR)
    contenders._eager_adagrad(theirs, other_sums, grads)
    torch.testing.assert_close([*ours, *sums], [*theirs, *other_sums])
    accumulator, other = (torch.ones((), dtype=torch.float64) for _ in range(2))
    ops.adagrad_norm_step_(ours, grads, accumulator, lr=contenders.LR)
    contenders._eager_adagrad_norm(theirs, grads, other)
    torch.testing.assert_close([*ours, accumulator], [*theirs, other])


def test_a_copy_moves_the_bytes_it_should() -> None:
    copy = Workbench("cpu", 1, (), compiled=False).copies(4000)
    assert isinstance(copy, partial)
    assert copy.args[0].nbytes == 2000, "read once, written once"
    bench = Workbench("cpu", 1 << 16, (), compiled=False)
    grads = bench.grads(8, torch.bfloat16, aligned=False)
    assert grads.shape[1] % 2 == 1
    assert grads.is_contiguous()
    assert bench.grads(8, torch.bfloat16).data_ptr() == grads.data_ptr(), "one memory for all"
