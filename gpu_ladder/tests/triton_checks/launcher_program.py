"""Calls Triton's own launcher with the ladder's driver below it; prints what was launched.

python launcher_program.py arguments|OP...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import triton
import triton.language as tl

sys.path.append(str(Path(__file__).resolve().parents[3]))

from gpu_ladder.triton_checks.stub_driver import StubDriver


@triton.jit
def every_kind(x_ptr, absent_ptr, out_ptrs, n, far, scale, flag, one, block: tl.constexpr):
    """Pointers, one that is not there, a tuple, integers of both widths, a float, a truth value."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.load(x_ptr + at, at < n, other=0.0) * scale + (far >> 32).to(tl.float32) + one
    if absent_ptr is not None:
        value += 1000.0
    if flag:
        value += 100.0
    tl.store(out_ptrs[0] + at, value, at < n)
    tl.store(out_ptrs[1] + at, -value, at < n)


def arguments() -> None:
    """Every kind of argument arrives as it was given."""
    x, first, second = torch.randn(1000), torch.empty(1000), torch.empty(1000)
    for far, flag in ((5 << 32, True), (7 << 40, False)):
        every_kind[(8,)](x, None, (first, second), 1000, far, 0.5, flag, 1, block=128)
        torch.testing.assert_close(first, x * 0.5 + (far >> 32) + 1 + 100 * flag)
        torch.testing.assert_close(second, -first)


def ops(names: list[str]) -> None:
    """The ops' cases are right, and bit for bit what they are where the ladder packs arguments."""
    import triton_ptx_cases as cases

    from adadagrad_kernels.backends.triton._launch import set_executor
    from gpu_ladder.triton_checks.ptx_executor import PtxExecutor

    shapes = {
        "batch_moments": [(64, 1001), (600, 300)],
        "accumulate_moments_": [(64, 1001)],
        "batch_adagrad_step_": [(250, 70)],
        "norm_layer_moments": cases.NORMS,
        "embedding_moments": cases.EMBEDDINGS[:1],
        "sparse_mean_step_": cases.SPARSE[1:3],
    }
    for name in names:
        for shape in shapes.get(name, [None]):
            case = cases.make_case(name, torch.bfloat16, shape)
            given = cases.bits(case.run())
            case.judge()
            previous = set_executor(PtxExecutor(90, checks=False))
            right = cases.bits(cases.make_case(name, torch.bfloat16, shape).run())
            set_executor(previous)
            assert given == right, f"{name} {shape}: other bits than with the ladder's launches"


def main(*names: str) -> None:
    """Run them; the launches are printed as JSON."""
    with StubDriver(90).running() as driver:
        if names == ("arguments",):
            arguments()
        else:
            ops(list(names))
    print(json.dumps([[launch.name, *launch.grid] for launch in driver.launches]))


if __name__ == "__main__":
    main(*sys.argv[1:])
