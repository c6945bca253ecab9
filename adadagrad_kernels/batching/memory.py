"""What a step holds in memory, and whether an error means that it did not fit."""

from __future__ import annotations

import functools
import gc
import re
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# RuntimeErrors without a type of their own; torch.OutOfMemoryError covers the other devices.
_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory"
    r"|(CUDA|HIP|XPU|MPS backend) out of memory"
    r"|CUDA error: out of memory"
    r"|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"
    r"|std::bad_alloc"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an allocation failed, and nothing else."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside it, and the most alive at once.

    It works on every device and inside torch.func transforms, because it sees each operation after
    these are resolved. It sees tensors, not the scratch space inside one operation.

    Attributes:
        live_bytes: of storages made inside and still alive.
        peak_bytes: the largest ``live_bytes`` so far.

    Example:
        >>> with PeakMemory() as memory:
        ...     doubled = torch.ones(1000) * 2
        >>> memory.peak_bytes, memory.live_bytes  # float32: two of them, then one
        (8000, 4000)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes: int = 0
        self.peak_bytes: int = 0
        self._storages: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs the operation and accounts for the storages of its results."""
        inputs = {
            id(tensor.untyped_storage())
            for tensor in tree_leaves((args, kwargs))
            if _has_storage(tensor)
        }
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if _has_storage(tensor):
                self._account(tensor.untyped_storage(), inputs)
        return results

    def _account(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        # torch keeps one Python object per storage for as long as the storage lives, so its id
        # and a weak reference to it stand for the memory itself.
        key = id(storage)
        known = self._storages.get(key)
        if known is None and key in inputs:
            return  # a view of, or an update in, memory from outside
        held = 0 if known is None else known[1]
        if known is None or storage.nbytes() != held:
            reference = weakref.ref(storage, functools.partial(self._release, key))
            self._storages[key] = (reference, storage.nbytes())
            self.live_bytes += storage.nbytes() - held
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _release(self, key: int, _: object) -> None:
        self.live_bytes -= self._storages.pop(key)[1]


class MemoryModel(NamedTuple):
    """Bytes a step holds at its peak, as far as measured: fixed + per_sample * micro_batch.

    The peak is the larger one of several straight lines (gradients bound a small micro-batch,
    activations a large one), so the fit holds best near ``measured_samples`` and below.
    """

    fixed_bytes: float
    bytes_per_sample: float
    measured_samples: int

    @classmethod
    def through(cls, small: tuple[int, int], large: tuple[int, int]) -> MemoryModel:
        """The line through two measurements (samples, bytes)."""
        slope = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
        return cls(large[1] - slope * large[0], slope, large[0])

    def samples_within(self, max_bytes: int) -> int | None:
        """The largest micro-batch within a bound; None if its size makes no difference."""
        if self.bytes_per_sample == 0:
            return None
        return int((max_bytes - self.fixed_bytes) / self.bytes_per_sample)


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Runs ``function`` and returns the most bytes it held at once beyond what was there before.

    On CUDA by the caching allocator's statistics, scratch space included; elsewhere by
    ``PeakMemory``.
    """
    if device.type != "cuda":
        memory = PeakMemory()
        with memory:
            function()
        return memory.peak_bytes
    gc.collect()  # what it frees during the run would hide as much of the peak
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    torch.cuda.synchronize(device)
    return int(torch.cuda.max_memory_allocated(device)) - before


def release_memory() -> None:
    """Frees cached and unreachable memory after a failed allocation."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA was never used


def _has_storage(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided
