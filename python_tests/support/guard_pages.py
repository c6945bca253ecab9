"""Runs every op, with every backend, on tensors that touch a forbidden page.

A kernel that reads or writes one element too far is killed by the machine, which neither guard
elements (they see writes only) nor a sanitizer on torch's own allocations would show.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels._native import instruction_sets, use_isa
from support.calls import CALLS, make_call

_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE
_FORBIDDEN, _KEPT = 0, []


def _between_guards(values: Tensor, at_end: bool) -> Tensor:
    """A copy of ``values`` whose memory ends (or begins) where a forbidden page begins (ends)."""
    size = values.numel() * values.element_size()
    if size == 0:
        return values
    pages = -(-size // _PAGE)
    region = mmap.mmap(-1, (pages + 2) * _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    for guard in (start, start + (pages + 1) * _PAGE):
        if _LIBC.mprotect(ctypes.c_void_p(guard), _PAGE, _FORBIDDEN):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    offset = _PAGE + (pages * _PAGE - size if at_end else 0)
    tensor = torch.frombuffer(region, dtype=values.dtype, count=values.numel(), offset=offset)
    _KEPT.append(region)
    return tensor.view(values.shape).copy_(values)


def _run(at_end: bool) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for name in CALLS:
            for samples, features in ((2, 1), (5, 33), (9, 4099), (600, 17)):
                shapes = [(), (7,), (5, 33), (4099,), (samples, features)]
                make_call(
                    name, dtype, samples, features, shapes, lambda t: _between_guards(t, at_end)
                )()


def _faults() -> bool:
    """Whether touching a guard really kills: in a child, which reads one element too far."""
    child = os.fork()
    if child == 0:
        tensor = _between_guards(torch.ones(8), at_end=True)
        ctypes.string_at(tensor.data_ptr() + 32, 4)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    ways = [("reference", None), *(("cpu", isa) for isa in instruction_sets()["supported"])]
    for name, isa in ways:
        print(f"running {name} {isa or ''}", flush=True)
        if isa:
            use_isa(isa)
        with use_backend(name):
            _run(at_end=True)
            _run(at_end=False)
    print("faulted as it should" if _faults() else "the guard pages do not guard")
