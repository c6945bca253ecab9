"""Which cases a GPU is measured on, in the order of their weight, and the least each must move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.gpu import contenders, layer_contenders
from benchmarks.gpu.contenders import Calls, Workbench

MIB = 1 << 20
FLOAT32, BFLOAT16, FLOAT16 = torch.float32, torch.bfloat16, torch.float16


@dataclass(frozen=True)
class Case:
    """One table of the page: contenders that run in the same rounds.

    Attributes:
        op: whose table it is.
        title: sizes, element type, outputs.
        least_bytes: what any way to do it moves to and from device memory, and what is copied.
        contenders: makes them when their turn comes.
        flush: whether the caches are emptied before every call; calls of many small tensors run
            one after another instead, as they do in training.
    """

    op: str
    title: str
    least_bytes: int
    contenders: Callable[[], Calls]
    flush: bool = True


def plan(bench: Workbench) -> Iterator[Case]:
    """All cases; first those that say most, for time may run out."""
    large = max(4096, bench.size // 16)
    yield _moments(bench, 64, FLOAT32, beside_torch=True)
    yield _step(bench, 64, FLOAT32)
    yield _update(bench, "adagrad_step_", [large], FLOAT32)
    yield _update(bench, "adagrad_step_", [1000] * 300, FLOAT32)
    yield _update(bench, "adagrad_norm_step_", [large], FLOAT32)
    yield _update(bench, "adagrad_norm_step_", [1000] * 300, FLOAT32)
    yield _moments(bench, 64, BFLOAT16, beside_torch=True)
    yield _moments(bench, 512, FLOAT32, beside_torch=True)
    yield _step(bench, 64, BFLOAT16)
    yield _layer(bench, 128, FLOAT32)
    yield _layer(bench, 1, FLOAT32)
    yield from _layers(bench, FLOAT32)
    yield from _layers(bench, BFLOAT16)
    yield _sparse(bench)
    yield _accumulate(bench, 64, FLOAT32)
    yield from _combinations(bench)
    for dtype in (BFLOAT16, FLOAT16):
        yield _moments(bench, 512, dtype)
        yield _update(bench, "adagrad_step_", [large], dtype)
        yield _update(bench, "adagrad_norm_step_", [large], dtype)
        yield _layer(bench, 128, dtype)
    yield _step(bench, 512, FLOAT32)
    for rows in (8, 4096):
        yield _moments(bench, rows, FLOAT32)
    for dtype in (FLOAT32, BFLOAT16):
        yield _moments(bench, 64, dtype, aligned=False)


def _combinations(bench: Workbench) -> Iterator[Case]:
    """Every choice of outputs but all of them, which other cases have."""
    for rows in (64, 512):
        for variance, products in ((False, False), (True, False), (False, True)):
            yield _moments(bench, rows, FLOAT32, variance=variance, products=products)


def _moments(
    bench: Workbench,
    rows: int,
    dtype: torch.dtype,
    *,
    variance: bool = True,
    products: bool = True,
    aligned: bool = True,
    beside_torch: bool = False,
) -> Case:
    features = bench.features(rows, dtype, aligned=aligned)
    outputs = "mean, norms" + ", variance" * variance + ", inner products" * products
    least = rows * features * dtype.itemsize + features * 4 * (1 + variance)
    least += rows * 8 * (1 + products)
    return Case(
        "batch_moments",
        f"{_shape(rows, features, dtype)}{'' if aligned else ', rows at odd addresses'}; {outputs}",
        least,
        partial(
            contenders.moments,
            bench,
            least,
            rows,
            dtype,
            variance=variance,
            products=products,
            aligned=aligned,
            beside_torch=beside_torch,
        ),
    )


def _step(bench: Workbench, rows: int, dtype: torch.dtype) -> Case:
    features = bench.features(rows, dtype)
    # G, mean and variance, param and sum read and written, norms and products.
    least = (rows + 4) * features * dtype.itemsize + 2 * 4 * features + rows * 16
    return Case(
        "batch_adagrad_step_",
        f"{_shape(rows, features, dtype)}; all outputs",
        least,
        partial(contenders.moments_and_step, bench, least, rows, dtype),
    )


def _layer(bench: Workbench, positions: int, dtype: torch.dtype) -> Case:
    """Bounded by its products and not by these bytes."""
    samples = 64 if positions > 1 else 4096
    # Up to 1024 in and out; less where G, of which this has no other use, is small.
    features = min(1024, max(64, bench.size // (samples * positions * dtype.itemsize) // 64 * 64))
    least = 2 * samples * positions * features * dtype.itemsize
    least += 2 * 4 * (features + 1) * features + 16 * samples
    shape = f"{samples:,} samples of {positions}, {features:,} to {features:,}, {_name(dtype)}"
    return Case(
        "linear_moments",
        f"{shape}; all outputs",
        least,
        partial(contenders.layer, bench, least, samples, positions, features, dtype),
    )


def _layers(bench: Workbench, dtype: torch.dtype) -> Iterator[Case]:
    """A convolution, a LayerNorm and an embedding, each input of at most a sixteenth of G."""
    elements = max(1 << 13, bench.size // 16 // dtype.itemsize)
    samples, channels = 64, max(1, min(64, elements // (64 * 64)))
    width = max(4, int((elements // samples // channels) ** 0.5) // 4 * 4)
    moved = 2 * samples * channels * width**2 * dtype.itemsize
    outputs = 2 * 4 * channels * (9 * channels + 1) + 16 * samples
    yield Case(
        "conv_moments",
        f"{samples} samples of {width} x {width}, {channels} to {channels}, {_name(dtype)}; "
        "all outputs",
        moved + outputs,
        partial(layer_contenders.conv, bench, moved + outputs, samples, channels, width, dtype),
    )
    samples, features = 16, min(1024, elements // 64)
    positions = elements // samples // features
    shape = (samples, positions, features, dtype)
    title = f"{samples} samples of {positions}, {features:,} features, {_name(dtype)}; all outputs"
    moved = samples * positions * features * dtype.itemsize
    least = 2 * moved + 8 * samples * positions + 16 * features + 16 * samples
    yield Case("norm_layer_moments", title, least,
               partial(layer_contenders.norm_layer, bench, least, *shape))  # fmt: skip
    least = moved + 8 * samples * positions + 8 * layer_contenders.TABLE * features + 16 * samples
    yield Case("embedding_moments", title, least,
               partial(layer_contenders.embedding, bench, least, *shape))  # fmt: skip


def _sparse(bench: Workbench) -> Case:
    """Rows with a hundredth of their entries."""
    rows, features = 256, max(1000, bench.size // 64)
    stored = features // 100
    # Columns and values of the stored; of the parameter what they touch, read and written.
    least = rows * stored * (8 + 4 + 2 * 4)
    return Case(
        "sparse_mean_step_",
        f"{rows} rows, {stored:,} of {features:,} entries in each, float32",
        least,
        partial(layer_contenders.sparse, bench, least, rows, stored, features),
    )


def _accumulate(bench: Workbench, rows: int, dtype: torch.dtype) -> Case:
    features = bench.features(rows, dtype)
    # The chunk, sum and squares read and written, norms.
    least = rows * features * dtype.itemsize + 4 * 4 * features + 8 * rows
    return Case(
        "accumulate_moments_",
        f"{_shape(rows, features, dtype)} behind others; all outputs",
        least,
        partial(layer_contenders.accumulate, bench, least, rows, dtype),
    )


#: Elements moved for each element of a parameter: three read and two written; for the norm the
#: gradient is read once more, and no accumulator (without weight decay, as here).
_MOVED = {"adagrad_step_": 5, "adagrad_norm_step_": 4}
_MAKERS = {"adagrad_step_": contenders.adagrad, "adagrad_norm_step_": contenders.adagrad_norm}


def _update(bench: Workbench, op: str, sizes: list[int], dtype: torch.dtype) -> Case:
    least = _MOVED[op] * sum(sizes) * dtype.itemsize
    tensors = "one tensor" if len(sizes) == 1 else f"{len(sizes)} tensors"
    return Case(
        op,
        f"{tensors} of {sizes[0]:,}, {_name(dtype)}",
        least,
        partial(_MAKERS[op], bench, least, sizes, dtype),
        flush=len(sizes) == 1,
    )


def _shape(rows: int, features: int, dtype: torch.dtype) -> str:
    return f"{rows} rows of {features:,}, {_name(dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
