"""Tensors that sit inside larger buffers, whose rest must stay as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adadagrad_kernels import backends

#: Elements around a guarded tensor: more than the widest vector of any instruction set.
GUARD = 70


def taken(dtype: torch.dtype) -> torch.dtype:
    """The dtype, or float32 in place of float64 where the chosen backend has kernels of no such."""
    on_gpu = backends.chosen() in ("cuda", "triton")
    return torch.float32 if on_gpu and dtype == torch.float64 else dtype


@dataclass
class Guarded:
    """A view into a buffer that holds NaN everywhere else."""

    tensor: Tensor
    buffer: Tensor = field(repr=False)
    outside: Tensor = field(repr=False)

    def assert_outside_untouched(self) -> None:
        rest = self.buffer[self.outside]
        assert rest.isnan().all(), "wrote outside the tensor"


def guarded(values: Tensor, offset: int = 1, strides: Sequence[int] | None = None) -> Guarded:
    """A copy of ``values`` that starts ``offset`` elements after an aligned address."""
    strides = tuple(strides or values.stride())
    pairs = zip(values.shape, strides, strict=True)
    extent = 1 + sum((n - 1) * s for n, s in pairs) if values.numel() else 0
    buffer = torch.full((2 * GUARD + offset + extent,), float("nan"), dtype=values.dtype)
    start = GUARD - GUARD % 64 + offset
    tensor = buffer.as_strided(values.shape, strides, start)
    outside = torch.ones(len(buffer), dtype=torch.bool)
    outside.as_strided(values.shape, strides, start).fill_(False)
    tensor.copy_(values)
    return Guarded(tensor, buffer, outside)


def per_sample_grads(
    samples: int, features: int, dtype: torch.dtype, *, padding: int = 0, offset: int = 0
) -> Guarded:
    """Gradients whose columns differ in scale and mean, ``padding`` elements apart."""
    generator = torch.Generator().manual_seed(samples * 1_000_003 + features)
    scale = torch.exp(torch.randn(features, generator=generator))
    centre = torch.randn(features, generator=generator) * scale
    noise = torch.randn(samples, features, generator=generator)
    values = (centre + scale * noise).to(dtype)
    return guarded(values, offset, (features + padding, 1))
