"""Every op once for each element type, against the reference in float64 on the same numbers.

The calls are those of the tests (``python_tests/support/calls.py``). Ops without kernels for a GPU
run on the reference there, which shows that they run on the device at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels.backends import BACKENDS
from benchmarks.gpu.folder import ROOT
from benchmarks.gpu.job import Job

#: Element types, each in a process of its own.
DTYPES = ("float32", "bfloat16", "float16")
#: Times the type's epsilon, of the largest element: results are stored in it, and products of
#: layers are rounded to it before they are added up.
ALLOWED_EPSILONS = 16


def run(job: Job) -> None:
    """Keep for every op how far off its results are; of ``job.way`` in ``job.dtype``.

    Raises:
        RuntimeError: where a result is off by more than is allowed, or an op raised.
    """
    sys.path.append(str(ROOT / "python_tests"))
    from support.calls import CALLS, runs

    reason = BACKENDS[job.way].unavailable()
    if reason is not None:
        job.keep(backend=job.way, missing=reason)
        return
    # A product in TF32 would be off by more than its inputs are.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    device, dtype = job.device(), getattr(torch, job.dtype)
    wrong = 0
    for name in CALLS:
        if "tensor by tensor" in name or not runs(BACKENDS[job.way], name.partition(" ")[0]):
            continue
        record: dict[str, Any] = {"call": name, "backend": job.way, "dtype": job.dtype}
        try:
            off = distance(name, job.way, device.name, dtype)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            record |= {"right": False, "failed": f"{type(error).__name__}: {lines[0][:200]}"}
        else:
            allowed = ALLOWED_EPSILONS * torch.finfo(dtype).eps
            record |= {"right": off <= allowed, "off": off, "allowed": allowed}
        wrong += not record["right"]
        job.keep(**record)
    if wrong:
        raise RuntimeError(f"{wrong} ops are wrong on {job.way} in {job.dtype}")


def distance(name: str, backend: str, device: str, dtype: torch.dtype) -> float:
    """The largest error of a call's results over their largest element; infinite for NaN."""
    found = _results(name, backend, dtype, lambda tensor: tensor.to(device))
    exact = _results(name, "reference", dtype, _in_float64)
    worst = 0.0
    for ours, theirs in zip(found, exact, strict=True):
        if not theirs.numel():
            continue
        error = (ours.double().cpu() - theirs.double()).abs().max()
        size = theirs.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        relative = float(error / size)
        worst = max(worst, relative if relative == relative else float("inf"))
    return worst


def _results(
    name: str, backend: str, dtype: torch.dtype, change: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    from support.calls import make_call, tensors

    call = make_call(name, dtype, shapes=[(31, 33), (4099,), (3, 5, 2)])
    moved: dict[int, Tensor] = {}
    arguments, keywords, written = (
        _changed(tree, change, moved) for tree in (call.arguments, call.keywords, call.written)
    )
    with use_backend(backend):
        returned = call.function(*arguments, **keywords)
    return [*tensors(returned), *tensors(written)]


def _in_float64(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _changed(tree: Any, change: Callable[[Tensor], Tensor], moved: dict[int, Tensor]) -> Any:
    """Nested arguments with every tensor replaced, the same one by the same one."""
    if isinstance(tree, Tensor):
        if id(tree) not in moved:
            moved[id(tree)] = change(tree)
        return moved[id(tree)]
    if isinstance(tree, dict):
        return {name: _changed(branch, change, moved) for name, branch in tree.items()}
    if isinstance(tree, list | tuple):
        branches = [_changed(branch, change, moved) for branch in tree]
        if hasattr(tree, "_fields"):
            return type(tree)(*branches)
        return type(tree)(branches)
    return tree
