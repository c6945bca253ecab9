"""What is known of every element of every buffer: whether it exists, was written, and by whom.

An element belongs to a buffer, a tensor in the host's memory. Accesses come as arrays of addresses,
one program at a time. Programs of one launch run in any order on a device, and at the same time;
so two of them must not touch one element unless both only read it, or both use atomics, or both
write the same value.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import numpy as np
import torch

#: Buffers span at most so many elements, strides included; beyond that each row is a buffer.
LARGEST = 2**27

Array = np.ndarray


@dataclass(frozen=True)
class Finding:
    """Something that a kernel must not do.

    Attributes:
        kind: ``out_of_bounds``, ``uninitialised``, ``misaligned`` or ``race``.
        site: ``file:line`` of the access, with the callers inside the kernel after it.
        message: what was accessed, and by which program of which launch.
    """

    kind: str
    site: str
    message: str

    def __str__(self) -> str:
        return f"{self.site}: {self.kind}: {self.message}"


@dataclass(frozen=True)
class Access:
    """One load, store or atomic operation of one program; elements that its mask leaves in."""

    addresses: Array
    size: int
    write: bool
    atomic: bool = False
    values: Array | None = None


@dataclass
class Buffer:
    """A tensor and, for each element that its rows span, what has happened to it.

    Stamps are programs, numbered through all launches, so that those of earlier launches are told
    by their size. Where several have read an element, the reader is the first stamp of the launch,
    negative.
    """

    name: str
    tensor: torch.Tensor
    start: int
    size: int
    exists: Array
    written: Array
    writer: Array = field(repr=False)
    reader: Array = field(repr=False)
    by_atomic: Array = field(repr=False)

    @property
    def end(self) -> int:
        """The address behind its last element."""
        return self.start + self.size * len(self.exists)

    def covers(self, tensor: torch.Tensor) -> bool:
        """Whether all of another tensor's span lies in this one's."""
        return self.start <= tensor.data_ptr() and _end(tensor) <= self.end


def _end(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() + _span(tensor) * tensor.element_size()


def _span(tensor: torch.Tensor) -> int:
    if tensor.numel() == 0:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def make_buffer(name: str, tensor: torch.Tensor, written: bool) -> Buffer:
    """A buffer of exactly the tensor's elements.

    Raises:
        ValueError: where its rows are so far apart that it cannot be shadowed.
    """
    span = _span(tensor)
    if span > LARGEST:
        raise ValueError(f"{name} spans {span} elements; at most {LARGEST} can be checked")
    exists = torch.zeros(span, dtype=torch.bool)
    if span:
        exists.as_strided(tensor.shape, tensor.stride()).fill_(True)
    return Buffer(
        name,
        tensor,
        tensor.data_ptr(),
        tensor.element_size(),
        exists.numpy(),
        np.full(span, written),
        np.zeros(span, np.int64),
        np.zeros(span, np.int64),
        np.zeros(span, bool),
    )


class Shadow:
    """All buffers, and the findings about accesses to them."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._buffers: list[Buffer] = []
        self._starts: list[int] = []
        self._first_stamp = 1
        self._programs = 0
        self._launch = "no kernel"

    def add(self, name: str, tensor: torch.Tensor, written: bool = True) -> None:
        """Know a tensor, unless a buffer that is known already covers it."""
        if tensor.numel() == 0 or any(buffer.covers(tensor) for buffer in self._buffers):
            return
        if _span(tensor) > LARGEST and tensor.dim() > 1:
            for index, row in enumerate(tensor):
                self.add(f"{name}[{index}]", row, written)
            return
        buffer = make_buffer(name, tensor, written)
        place = bisect.bisect(self._starts, buffer.start)
        self._starts.insert(place, buffer.start)
        self._buffers.insert(place, buffer)

    def mark_written(self, tensor: torch.Tensor) -> None:
        """Something other than a kernel has written all of the tensor."""
        for buffer in self._buffers:
            first = (tensor.data_ptr() - buffer.start) // buffer.size
            if not buffer.covers(tensor) or tensor.numel() == 0:
                continue
            if tensor.element_size() == buffer.size:
                part = torch.from_numpy(buffer.written[first:])
                part.as_strided(tensor.shape, tensor.stride()).fill_(True)
            else:  # a view of another type; strided ones do not occur between torch's operators
                last = (_end(tensor) - buffer.start) // buffer.size
                buffer.written[first:last] = True

    def begin_launch(self, kernel: str, programs: int) -> None:
        """From now on programs are those of another launch."""
        self._first_stamp += self._programs
        self._programs = programs
        self._launch = kernel

    def check(self, access: Access, program: int, site: str) -> Array:
        """Record an access; gives for each element whether it may be performed."""
        allowed = np.ones(len(access.addresses), bool)
        left = np.arange(len(access.addresses))
        while len(left):
            address = int(access.addresses[left[0]])
            place = bisect.bisect(self._starts, address) - 1
            buffer = self._buffers[place] if place >= 0 else None
            if buffer is None or address >= buffer.end:
                inside = np.zeros(len(left), bool)
                inside[0] = True
                allowed[left[0]] = False
                self._report("out_of_bounds", site, access, program, f"address {address:#x}")
            else:
                addresses = access.addresses[left]
                inside = (addresses >= buffer.start) & (addresses < buffer.end)
                allowed[left[inside]] = self._in_buffer(buffer, access, left[inside], program, site)
            left = left[~inside]
        return allowed

    def _in_buffer(
        self, buffer: Buffer, access: Access, which: Array, program: int, site: str
    ) -> Array:
        offsets = access.addresses[which].astype(np.int64) - buffer.start
        if access.size != buffer.size or (offsets % buffer.size).any():
            what = f"{access.size} bytes in elements of {buffer.size} bytes of {buffer.name}"
            self._report("misaligned", site, access, program, what)
            return np.zeros(len(which), bool)
        elements = offsets // buffer.size
        exists: Array = buffer.exists[elements]
        self._judge("out_of_bounds", ~exists, elements, buffer, access, program, site)
        elements = elements[exists]
        values = None if access.values is None else access.values[which[exists]]
        stamp = self._first_stamp + program
        if not access.write or access.atomic:
            unknown = ~buffer.written[elements]
            self._judge("uninitialised", unknown, elements, buffer, access, program, site)
        race = self._races(buffer, elements, access, values, stamp)
        self._judge("race", race, elements, buffer, access, program, site)
        if access.write:
            buffer.writer[elements] = stamp
            buffer.by_atomic[elements] = access.atomic
            buffer.written[elements] = True
        else:
            others = self._others_read(buffer.reader[elements], stamp)
            buffer.reader[elements] = np.where(others, -self._first_stamp, stamp)
        return exists

    def _races(
        self, buffer: Buffer, elements: Array, access: Access, values: Array | None, stamp: int
    ) -> Array:
        writers = buffer.writer[elements]
        other_wrote = (writers >= self._first_stamp) & (writers != stamp)
        if access.atomic:
            other_wrote &= ~buffer.by_atomic[elements]
        elif access.write and values is not None:
            now = _bits(buffer)[elements]
            other_wrote &= (now != values.view(now.dtype)) | buffer.by_atomic[elements]
        if access.write:
            other_wrote |= self._others_read(buffer.reader[elements], stamp)
        race: Array = other_wrote
        return race

    def _others_read(self, readers: Array, stamp: int) -> Array:
        """Whether another program of this launch is among the readers; several have a mark."""
        one_other = (readers >= self._first_stamp) & (readers != stamp)
        others: Array = one_other | (readers == -self._first_stamp)
        return others

    def _judge(
        self, kind: str, bad: Array, elements: Array, buffer: Buffer, access: Access,
        program: int, site: str,
    ) -> None:  # fmt: skip
        if bad.any():
            first = int(elements[np.argmax(bad)])
            what = f"element {first} of {buffer.name} {tuple(buffer.tensor.shape)}"
            self._report(kind, site, access, program, what)

    def _report(self, kind: str, site: str, access: Access, program: int, what: str) -> None:
        verb = "atomic" if access.atomic else "write" if access.write else "read"
        message = f"{verb} of {what} by program {program} of {self._launch}"
        if not any(f.kind == kind and f.site == site for f in self.findings):
            self.findings.append(Finding(kind, site, message))


def _bits(buffer: Buffer) -> Array:
    """The buffer's elements as they are in memory, as unsigned integers."""
    kind = np.dtype(f"u{buffer.size}")
    flat = buffer.tensor.detach().as_strided((len(buffer.exists),), (1,))
    bits: Array = flat.view(torch.uint8).numpy().view(kind)
    return bits
