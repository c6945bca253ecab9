"""How many blocks a multiprocessor holds at once: a calculation from published properties.

The rules are those of CUDA's ``cuda_occupancy.h``, for devices of compute capability 8.0 and newer;
a test holds this module against that header. Occupancy says what fits, nothing about speed.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024

WARP_THREADS = 32
#: Registers are given to warps in units of this many; shared memory to blocks in units of bytes.
REGISTER_UNIT = 256
SHARED_UNIT = 128
#: Each quarter of a multiprocessor has a quarter of its registers, and warps of its own.
QUARTERS = 4
LARGEST_BLOCK = 1024
MOST_REGISTERS_OF_A_THREAD = 256
RESERVED_SHARED_BYTES = 1 * KIB


@dataclass(frozen=True)
class Device:
    """A GPU, as far as occupancy goes.

    Attributes:
        name: as it is sold.
        architecture: 90 for sm_90.
        threads: the most that are resident on one multiprocessor.
        blocks: the most that are resident on one multiprocessor.
        shared_bytes: of one multiprocessor; one block may take all of it, what the driver reserves
            for the block included.
        registers: of one multiprocessor; one block may take all of them.
    """

    name: str
    architecture: int
    threads: int
    blocks: int
    shared_bytes: int
    registers: int = 65536


A100 = Device("A100", 80, threads=2048, blocks=32, shared_bytes=164 * KIB)
H100 = Device("H100", 90, threads=2048, blocks=32, shared_bytes=228 * KIB)
B200 = Device("B200", 100, threads=2048, blocks=32, shared_bytes=228 * KIB)
RTX_5090 = Device("RTX 5090", 120, threads=1536, blocks=24, shared_bytes=100 * KIB)
DEVICES = {device.architecture: device for device in (A100, H100, B200, RTX_5090)}


@dataclass(frozen=True)
class Occupancy:
    """What one multiprocessor holds.

    Attributes:
        blocks: resident at once; 0 where the kernel cannot be launched at all.
        share: resident threads over the most that fit, 0 to 1.
        limits: what keeps it from more: ``threads``, ``registers``, ``shared memory``, ``blocks``.
    """

    blocks: int
    share: float
    limits: tuple[str, ...]


def occupancy(device: Device, *, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """Blocks of a kernel that a multiprocessor of ``device`` holds at once.

    Args:
        device: one of ``DEVICES``, or another of compute capability 8.0 or newer.
        threads: of a block.
        registers: of a thread, as the compiler reports them.
        shared_bytes: of a block, static and dynamic.

    Raises:
        ValueError: for no threads, no registers or negative sizes.

    Example:
        >>> occupancy(A100, threads=256, registers=64, shared_bytes=0)
        Occupancy(blocks=4, share=0.5, limits=('registers',))
    """
    if threads < 1 or registers < 1 or shared_bytes < 0:
        raise ValueError(
            f"got {threads} threads, {registers} registers, {shared_bytes} bytes; accepted are at "
            "least one thread, one register and no byte"
        )
    warps = -(-threads // WARP_THREADS)
    counts = {
        "threads": device.threads // WARP_THREADS // warps if threads <= LARGEST_BLOCK else 0,
        "registers": _by_registers(device, warps, registers),
        "shared memory": _by_shared_memory(device, shared_bytes),
        "blocks": device.blocks,
    }
    blocks = min(counts.values())
    limits = tuple(name for name, count in counts.items() if count == blocks)
    return Occupancy(blocks, blocks * warps * WARP_THREADS / device.threads, limits)


def _by_registers(device: Device, warps: int, registers: int) -> int:
    of_a_warp = _round_up(registers * WARP_THREADS, REGISTER_UNIT)
    # A launch is refused as if each quarter took as many warps as the fullest.
    if (
        registers > MOST_REGISTERS_OF_A_THREAD
        or of_a_warp * _round_up(warps, QUARTERS) > device.registers
    ):
        return 0
    return device.registers // QUARTERS // of_a_warp * QUARTERS // warps


def _by_shared_memory(device: Device, shared_bytes: int) -> int:
    of_a_block = _round_up(shared_bytes + RESERVED_SHARED_BYTES, SHARED_UNIT)
    return device.shared_bytes // of_a_block


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
