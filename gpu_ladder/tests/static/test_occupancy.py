"""Occupancy: by hand, and against CUDA's own header over a grid of inputs."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest

from gpu_ladder.static import toolchain
from gpu_ladder.static.occupancy import A100, B200, DEVICES, H100, KIB, RTX_5090, occupancy

HOST_PROGRAM = Path(__file__).with_name("occupancy_by_header.cpp")
LIMITS = ("threads", "registers", "shared memory", "blocks")


def test_what_fits_by_hand() -> None:
    full = occupancy(A100, threads=256, registers=32, shared_bytes=0)
    assert (full.blocks, full.share, full.limits) == (8, 1.0, ("threads", "registers"))
    assert occupancy(H100, threads=128, registers=96, shared_bytes=0).blocks == 5
    assert occupancy(B200, threads=32, registers=16, shared_bytes=0).limits == ("blocks",)
    tile = occupancy(RTX_5090, threads=256, registers=32, shared_bytes=64 * KIB)
    assert (tile.blocks, tile.limits) == (1, ("shared memory",))
    assert tile.share == pytest.approx(256 / 1536)


def test_what_does_not_fit_at_all() -> None:
    assert occupancy(A100, threads=1025, registers=8, shared_bytes=0).blocks == 0
    assert occupancy(A100, threads=1024, registers=72, shared_bytes=0).blocks == 0
    assert occupancy(A100, threads=32, registers=8, shared_bytes=163 * KIB).blocks == 1
    assert occupancy(A100, threads=32, registers=8, shared_bytes=163 * KIB + 1).blocks == 0


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"registers": 0}, {"shared_bytes": -1}])
def test_refuses_what_is_no_kernel(wrong: dict[str, int]) -> None:
    given = {"threads": 256, "registers": 32, "shared_bytes": 0} | wrong
    with pytest.raises(ValueError, match="accepted are at least one thread"):
        occupancy(A100, **given)


def test_as_cudas_own_header_over_a_grid(tmp_path: Path) -> None:
    header = toolchain.occupancy_header()
    if header is None:
        pytest.skip(f"no cuda_occupancy.h; {toolchain.PIP_INSTALL}")
    program = tmp_path / "occupancy"
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
    subprocess.run(
        ["g++", "-std=c++20", *warnings, "-isystem", str(header.parent), "-o", str(program),
         str(HOST_PROGRAM)], check=True,
    )  # fmt: skip
    grid = list(
        itertools.product(
            DEVICES.values(),
            (1, 32, 33, 64, 96, 128, 160, 256, 320, 512, 768, 1000, 1024, 1025),
            (1, 8, 9, 24, 32, 33, 40, 63, 64, 65, 96, 128, 168, 255, 256, 257),
            (0, 4, 8 * KIB, 48 * KIB),
            (0, 1, 15 * KIB, 31 * KIB, 50 * KIB, 63 * KIB, 99 * KIB, 162 * KIB, 227 * KIB),
        )
    )
    lines = [
        f"{device.architecture} {device.threads} {device.shared_bytes} {threads} {registers} "
        f"{static} {dynamic}"
        for device, threads, registers, static, dynamic in grid
    ]
    done = subprocess.run(
        [str(program)], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    answers = done.stdout.splitlines()
    assert len(answers) == len(grid) > 30_000
    blocks_seen = set()
    for (device, threads, registers, static, dynamic), line in zip(grid, answers, strict=True):
        blocks, *flags = (int(word) for word in line.split())
        ours = occupancy(
            device, threads=threads, registers=registers, shared_bytes=static + dynamic
        )
        limits = tuple(name for name, flag in zip(LIMITS, flags, strict=True) if flag)
        given = (device.name, threads, registers, static, dynamic)
        assert (ours.blocks, ours.limits) == (blocks, limits), given
        blocks_seen.add(blocks)
    assert {0, 1, 2, 3, 5, 24, 32} <= blocks_seen
