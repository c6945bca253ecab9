"""What is done to the memory of a launch: moved to where a device would have it, and compared."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpu_ladder.check.launches import Launch, Output
from gpu_ladder.emulated import span

#: Bytes behind every allocation, so that a kernel that is not watched there does no harm.
ROOM = 4096
#: What a device's allocator aligns to; what a view adds to that is the view's.
ALIGNMENT = 256

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def is_memory(value: Any) -> bool:
    """Whether a kernel gets the address of it."""
    return isinstance(value, np.ndarray) or hasattr(value, "data_ptr")


def materialised(arguments: Mapping[str, Any], room: int = ROOM) -> dict[str, Any]:
    """The arguments with memory of their own; views of one allocation stay so."""
    moved: dict[int, Bytes] = {}
    made: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, Output):
            made[name] = _unwritten(value, room)
        elif isinstance(value, np.ndarray):
            root = value
            while isinstance(root.base, np.ndarray):
                root = root.base
            memory = _copied(moved, *span(root), room)
            offset = value.ctypes.data - root.ctypes.data
            made[name] = np.ndarray(value.shape, value.dtype, memory, offset, value.strides)
        elif is_memory(value):
            storage = value.untyped_storage()
            memory = _copied(moved, storage.data_ptr(), storage.nbytes(), room)
            made[name] = _tensor(memory, value.dtype).as_strided(
                value.shape, value.stride(), value.storage_offset()
            )
        else:
            made[name] = value
    return made


def _copied(moved: dict[int, Bytes], address: int, size: int, room: int) -> Bytes:
    """A copy of an allocation, the same one for the same address."""
    if address not in moved:
        moved[address] = _aligned(size, room)
        ctypes.memmove(moved[address].ctypes.data, address, size)
    return moved[address]


def _aligned(size: int, room: int) -> Bytes:
    """Memory with all bits set: NaNs in floating point, where what nothing wrote shows at once."""
    if not room:  # AddressSanitizer watches the end of what malloc gave
        return np.full(size, 0xFF, np.uint8)
    whole = np.full(size + room + ALIGNMENT, 0xFF, np.uint8)
    start = -whole.ctypes.data % ALIGNMENT
    return whole[start : start + size]


def _unwritten(output: Output, room: int) -> Any:
    shape = (output.shape,) if isinstance(output.shape, int) else output.shape
    count = int(np.prod(shape, dtype=np.int64))
    if not isinstance(output.dtype, type | np.dtype | str):  # torch's
        size = count * output.dtype.itemsize
        return _tensor(_aligned(size, room), output.dtype)[:count].view(shape)
    dtype = np.dtype(output.dtype)
    return _aligned(count * dtype.itemsize, room).view(dtype).reshape(shape)


def _tensor(memory: Bytes, dtype: Any) -> Any:
    """All of the memory as a tensor of one dimension."""
    import torch

    return torch.from_numpy(memory).view(dtype)


def wrong_numbers(launch: Launch, arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and a sentence for each argument that does not hold what is expected."""
    for name, wanted in launch.expected.items():
        given, right = _numbers(arguments[name]), _numbers(wanted)
        if given.shape != right.shape:
            yield name, f"it has the shape {given.shape}; expected is {right.shape}"
            continue
        with np.errstate(invalid="ignore"):
            close = np.abs(given - right) <= launch.tolerance * (1.0 + np.abs(right))
        close |= (given == right) | (np.isnan(given) & np.isnan(right))
        if not close.all():
            places = np.argwhere(~close)
            first = tuple(int(index) for index in places[0])
            yield (
                name,
                (
                    f"{len(places):,} of {given.size:,} elements are wrong, the first at "
                    f"{list(first)}: {given[first]:.9g}, and expected is {right[first]:.9g}"
                ),
            )


def _numbers(values: Any) -> np.ndarray[Any, Any]:
    if hasattr(values, "data_ptr"):
        values = values.detach().double().numpy()
    return np.asarray(values, np.float64)
