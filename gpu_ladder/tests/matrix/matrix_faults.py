"""Faults, planted one at a time in the sources of `moments_kernel`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One edit of a source file.

    Attributes:
        name: what is wrong, as the table has it.
        file: in csrc/cuda.
        found: what stands there.
        planted: what stands there instead.
    """

    name: str
    file: str
    found: str
    planted: str

    def plant(self, sources: Path) -> None:
        """Make the edit in a copy of csrc; the text must be there, its first occurrence counts."""
        path = sources / "cuda" / self.file
        text = path.read_text(encoding="utf-8")
        pattern = r"\s+".join(map(re.escape, self.found.split()))
        changed, count = re.subn(pattern, lambda _: self.planted, text, count=1)
        assert count, f"{self.file} has no {self.found!r} to plant {self.name!r} in"
        path.write_text(changed, encoding="utf-8")


FAULTS = [
    Fault(
        "no barrier before partial sums are merged",
        "batch_moments.cuh",
        "totals.gather(sums, tile); __syncthreads();",
        "totals.gather(sums, tile);",
    ),
    Fault(
        "no barrier before the next tile",
        "batch_moments.cuh",
        "with_variance ? totals.squares : nullptr); __syncthreads(); }",
        "with_variance ? totals.squares : nullptr); }",
    ),
    Fault(
        "a barrier that half of the block skips",
        "batch_moments.cuh",
        "totals.gather(sums, tile); __syncthreads();",
        "totals.gather(sums, tile); if (threadIdx.x < 128) __syncthreads();",
    ),
    Fault(
        "blocks share their partial sums",
        "batch_moments.cuh",
        "const std::int64_t out = blockIdx.x * matrix.samples + tile.first_row;",
        "const std::int64_t out = tile.first_row;",
    ),
    Fault(
        "the end of a row is stored as a whole vector",
        "device.cuh",
        "if (aligned && (lane + 1) * size <= count) {",
        "if (aligned && lane * size < count) {",
    ),
    Fault(
        "the end of a row is loaded as a whole vector",
        "device.cuh",
        "if (aligned && (lane + 1) * size <= count) return",
        "if (aligned && lane * size < count) return",
    ),
    Fault(
        "rows that are not there are counted",
        "batch_moments.cuh",
        "if (row_sums.keeps() && row_sums.row() < there) norms.add",
        "if (row_sums.keeps()) norms.add",
    ),
    Fault(
        "vectors from an address that is not aligned",
        "matrix_tiles.cuh",
        "reinterpret_cast<const uint4*>(span + r * stride) + lane",
        "reinterpret_cast<const uint4*>(span + r * stride + 1) + lane",
    ),
    Fault(
        "sums in shared memory are not cleared",
        "batch_moments.cuh",
        "norms.clear();",
        "",
    ),
    Fault(
        "a shuffle that half of the lanes skip",
        "batch_moments.cuh",
        "const float norm = row_sums(own);",
        "const float norm = threadIdx.x % 32 < 16 ? row_sums(own) : own[0];",
    ),
    Fault(
        "a shuffle with the wrong distance",
        "row_sums.cuh",
        "return sum_lanes(exchange(first, second, odd, width / 4), width / 4);",
        "return sum_lanes(exchange(first, second, odd, width / 4), width / 8);",
    ),
    Fault(
        "a mean over one row too few",
        "column_sums.cuh",
        "pool.squares / static_cast<float>(rows - 1)",
        "pool.squares / static_cast<float>(rows)",
    ),
    Fault(
        "partial sums added by atomics",
        "row_sums.cuh",
        "out[row] = total;",
        "out[row] = 0, atomicAdd(out + row, total);",
    ),
    Fault(
        "elements loaded one at a time",
        "matrix_tiles.cuh",
        "if (aligned && there == rows_together && (lane + 1) * Chunk<T>::size <= left) {",
        "if (false) {",
    ),
    Fault(
        "registers spilled",
        "batch_moments.cuh",
        "__launch_bounds__(moments_threads, 2) moments_kernel",
        "__launch_bounds__(moments_threads, 6) moments_kernel",
    ),
]
