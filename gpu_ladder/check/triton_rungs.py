"""The rungs of a Triton function: Triton's interpreter with every access watched, and its PTX."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gpu_ladder.check import memory
from gpu_ladder.check.job import Job
from gpu_ladder.check.launches import DescriptionError, Launch, Output, described, load, three
from gpu_ladder.check.results import Moved, RungResult

_SEED = 1


@dataclass(frozen=True)
class _TritonLaunch:
    """As the executor of PTX takes it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, Any]


def interpreted(job: Job) -> RungResult:
    """The function in Triton's interpreter, in three orders of programs."""
    from gpu_ladder.triton_checks.interpreter import ORDERS, checked

    result = RungResult("Triton's interpreter")
    kernels, described_in = load(job.source), load(job.launches)
    for order in ORDERS:
        for launch in described(described_in, job.kernel):
            with checked(order=order, seed=_SEED) as findings:
                ready = _ready(kernels, launch)
                ready.kernel[ready.grid](*ready.arguments, **ready.constants, **ready.options)
            _keep(result, launch)
            for one in findings:
                result.add(one.kind, launch.label, one.message, one.site, order)
            _compare(result, launch, ready, order)
    return result


def ptx(job: Job) -> RungResult:
    """What Triton makes of the function for one architecture, executed in three orders."""
    from gpu_ladder.triton_checks.interpreter import ORDERS
    from gpu_ladder.triton_checks.ptx_executor import PtxExecutor

    result = RungResult(f"Triton's PTX of sm_{job.architecture}")
    kernels, described_in = load(job.source), load(job.launches)
    for order in ORDERS:
        for launch in described(described_in, job.kernel):
            executor = PtxExecutor(job.architecture, order, seed=_SEED)
            stopped = ""
            with executor.running(lambda _: None):
                ready = _ready(kernels, launch)
                try:
                    executor(ready)
                except RuntimeError as error:  # a kernel that does not finish, with what was found
                    stopped = str(error)
            _keep(result, launch)
            for _, report in executor.reports:
                for found in report.findings:
                    site = f"{found.file}:{found.source_line}" if found.file else ""
                    result.add(found.kind, launch.label, found.message, site, order)
                if order == ORDERS[0]:
                    moved = [
                        Moved(launch.label, f"{row.file}:{row.source_line}", row.space, row.write,
                              row.access_bytes, row.requests, row.bytes, row.sectors,
                              row.ideal_sectors)
                        for row in report.traffic
                    ]  # fmt: skip
                    result.hold_to_limits(launch, moved, order)
            if not stopped:
                _compare(result, launch, ready, order)
            elif not executor.findings:
                result.add("launch", launch.label, stopped, "", order)
    return result


RUNGS: dict[str, Callable[[Job], RungResult]] = {"checked": interpreted, "ptx": ptx}


def _ready(kernels: ModuleType, launch: Launch) -> _TritonLaunch:
    """The launch with tensors; those of outputs are made here, where allocations are watched."""
    import torch

    kernel = getattr(kernels, launch.kernel, None)
    if kernel is None or not hasattr(kernel, "arg_names"):
        raise DescriptionError(f"{kernels.__file__} has no triton.jit function {launch.kernel}")
    names = list(kernel.arg_names)
    if set(names) != set(launch.arguments):
        raise DescriptionError(
            f"{launch.kernel} takes {', '.join(names)}; described are {', '.join(launch.arguments)}"
        )
    constants = {name for name in names if _is_constant(kernel, name)}
    outputs = {name: v for name, v in launch.arguments.items() if isinstance(v, Output)}
    given = memory.materialised({n: v for n, v in launch.arguments.items() if n not in outputs})
    for name, value in given.items():
        if memory.is_memory(value) and not isinstance(value, torch.Tensor):
            given[name] = torch.from_numpy(value)
    for name, output in outputs.items():
        given[name] = torch.empty(output.shape, dtype=_torch_type(output.dtype))
    grid = three(launch.grid, f"the grid of {launch.label}")
    return _TritonLaunch(
        kernel,
        grid,
        tuple(given[name] for name in names if name not in constants),
        {name: given[name] for name in names if name in constants},
        {"num_warps": 4, **launch.options},
    )


def _is_constant(kernel: Any, name: str) -> bool:
    function = getattr(kernel, "fn", kernel)
    return "constexpr" in str(inspect.signature(function).parameters[name].annotation)


def _torch_type(dtype: Any) -> Any:
    import numpy as np
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _keep(result: RungResult, launch: Launch) -> None:
    if launch.label not in result.launches:
        result.launches.append(launch.label)


def _compare(result: RungResult, launch: Launch, ready: _TritonLaunch, order: str) -> None:
    names = [name for name in ready.kernel.arg_names if name not in ready.constants]
    after = dict(zip(names, ready.arguments, strict=True))
    result.compare(launch, after, order)
