"""Scale and shift of a normalisation: what each sample contributes, and the moments of that.

    h_i = (Σ_t y_it (x_it - mean) rstd, Σ_t y_it),  [samples, 2 features], without a shift the first

A program has a strip of features of one sample, or of a part of its positions where there are few
strips. It keeps a tile of running sums in registers, so that a sum has as many chains as the tile
has positions, and adds them up once. What it writes is a row of G for `batch_moments`, whose sums
of squares and products are then those over scale and shift together.

Traffic: inputs and output gradients once, and 8 bytes per sample and feature for each of scale and
shift, written here and read by `batch_moments`.

Features or positions may lie side by side, in inputs and output gradients each: channels last, and
channels first. 16 bytes are loaded at once where all rows begin at a multiple of them.

Values outside enter as zeros; what is not finite stays in its sample and feature.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.backends.triton._launch import launch
from adadagrad_kernels.backends.triton.kernels._moments import measure

#: What lies side by side in a tensor [samples, positions, features].
NEITHER, FEATURES, POSITIONS = range(3)
#: Positions and features of a tile, 16 elements to a thread; of the second, where both tensors have
#: positions side by side.
TILE, TURNED = (16, 128), (64, 32)
WARPS = 4
#: Positions are cut until so many programs run ...
PROGRAMS = 1024
#: ... into parts of at least so many, or what the parts write would be more than they read ...
FEWEST_POSITIONS = 256
#: ... and at most so many, or a sum's rounding would grow with them.
MOST_POSITIONS = 4096


@triton.jit
def load_plane(
    plane, position_stride, feature_stride, rows, columns, valid,
    ADJACENT: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """The values of one sample at rows x columns in float32, zero where they are not valid.

    VECTOR adjacent elements begin at a multiple of 16 bytes.
    """
    if ADJACENT == 1:
        start = tl.multiple_of(rows.to(tl.int64) * position_stride, [VECTOR])
        place = start[:, None] + columns[None, :]
    elif ADJACENT == 2:
        start = tl.multiple_of(columns.to(tl.int64) * feature_stride, [VECTOR])
        place = rows[:, None] + start[None, :]
    else:
        start = rows.to(tl.int64) * position_stride
        place = start[:, None] + (columns.to(tl.int64) * feature_stride)[None, :]
    return tl.load(plane + place, mask=valid, other=0.0).to(tl.float32)


@triton.jit(
    do_not_specialize=[
        *("input_sample", "input_position", "input_feature"),
        *("grad_sample", "grad_position", "grad_feature"),
        *("samples", "positions", "features", "positions_each", "width"),
        "contributions",
    ]
)
def norm_contributions_kernel(
    inputs,  # [samples, positions, features], with strides
    grads,  # the same
    mean,  # [samples, positions] or [samples, groups], or None
    rstd,  # likewise
    contributions,  # [parts, samples, 1 or 2, features]
    input_sample,
    input_position,
    input_feature,
    grad_sample,
    grad_position,
    grad_feature,
    samples,
    positions,
    features,
    positions_each,
    width,  # features of a group
    SHIFT: tl.constexpr,
    GROUPED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUT_ADJACENT: tl.constexpr,
    INPUT_VECTOR: tl.constexpr,
    GRAD_ADJACENT: tl.constexpr,
    GRAD_VECTOR: tl.constexpr,
    POSITION_VECTOR: tl.constexpr,  # divides the positions
    FEATURE_VECTOR: tl.constexpr,  # divides the features
):
    """A strip of features of a sample, over a part of its positions."""
    sample = tl.program_id(0).to(tl.int64)
    part = tl.program_id(2)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = tl.max_constancy(columns < features, [FEATURE_VECTOR])
    begin = part * positions_each
    end = tl.minimum(begin + positions_each, positions)
    inputs += tl.multiple_of(sample * input_sample, INPUT_VECTOR)
    grads += tl.multiple_of(sample * grad_sample, GRAD_VECTOR)
    if GROUPED:
        group = sample * (features // width) + columns // width
        rate = tl.load(rstd + group, mask=inside, other=0.0)[None, :]
        if mean is not None:
            center = tl.load(mean + group, mask=inside, other=0.0)[None, :]
    scale = tl.zeros([ROWS, COLUMNS], tl.float32)
    shift = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in tl.range(begin, end, ROWS, disable_licm=True):
        rows = tl.multiple_of(start + tl.arange(0, ROWS), [POSITION_VECTOR])
        present = tl.max_constancy(rows < end, [POSITION_VECTOR])
        valid = present[:, None] & inside[None, :]
        x = load_plane(
            inputs, input_position, input_feature, rows, columns, valid,
            INPUT_ADJACENT, INPUT_VECTOR,
        )  # fmt: skip
        y = load_plane(
            grads, grad_position, grad_feature, rows, columns, valid,
            GRAD_ADJACENT, GRAD_VECTOR,
        )  # fmt: skip
        if not GROUPED:
            place = sample * positions + rows
            rate = tl.load(rstd + place, mask=present, other=0.0)[:, None]
            if mean is not None:
                center = tl.load(mean + place, mask=present, other=0.0)[:, None]
        if mean is not None:
            x -= center
        scale += x * rate * y
        if SHIFT:
            shift += y
    rows_of_sample: tl.constexpr = 2 if SHIFT else 1
    place = (part.to(tl.int64) * samples + sample) * rows_of_sample * features + columns
    tl.store(contributions + place, tl.sum(scale, axis=0), mask=inside)
    if SHIFT:
        tl.store(contributions + place + features, tl.sum(shift, axis=0), mask=inside)


def norm_layer_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """See `backends.reference.norm_layer_moments`."""
    samples, _, features = inputs.shape
    rows = _contributions(inputs, grad_outputs, mean, rstd, bias)
    moments = measure(rows, variance, inner_products, None)
    grad, spread, products = moments.mean * samples, moments.variance, moments.inner_products
    if products is not None:
        products = products * samples
    if not bias:
        return LayerMoments(grad, None, moments.sq_norms, spread, None, products)
    # Results of an op share no memory.
    weight_grad, shift_grad = (part.clone() for part in grad.split(features))
    if spread is None:
        return LayerMoments(weight_grad, shift_grad, moments.sq_norms, None, None, products)
    of_weight, of_shift = (part.clone() for part in spread.split(features))
    return LayerMoments(weight_grad, shift_grad, moments.sq_norms, of_weight, of_shift, products)


def _contributions(
    inputs: Tensor, grads: Tensor, mean: Tensor | None, rstd: Tensor, bias: bool
) -> Tensor:
    """``[samples, features]`` of the scale, with those of the shift behind them."""
    samples, positions, features = inputs.shape
    input_adjacent, input_vector = _layout(inputs)
    grad_adjacent, grad_vector = _layout(grads)
    turned = input_adjacent == grad_adjacent == POSITIONS
    rows, columns = TURNED if turned else TILE
    strips = triton.cdiv(features, columns)
    parts = min(
        triton.cdiv(PROGRAMS, max(1, samples * strips)), triton.cdiv(positions, FEWEST_POSITIONS)
    )
    parts = max(1, parts, triton.cdiv(positions, MOST_POSITIONS))
    positions_each = rows * max(1, triton.cdiv(positions, rows * parts))
    parts = max(1, triton.cdiv(positions, positions_each))
    shape = (parts, samples, (1 + bias) * features)
    found = torch.empty(shape, dtype=torch.float32, device=inputs.device)
    vector = 16 // inputs.element_size()
    launch(
        norm_contributions_kernel,
        (samples, strips, parts),
        (
            inputs, grads, None if mean is None else mean.contiguous(), rstd.contiguous(), found,
            *inputs.stride(), *grads.stride(),
            samples, positions, features, positions_each, features // rstd.shape[2],
        ),
        {
            "SHIFT": bias,
            "GROUPED": rstd.shape[1] != positions or rstd.shape[2] != 1,
            "ROWS": rows,
            "COLUMNS": columns,
            "INPUT_ADJACENT": input_adjacent,
            "INPUT_VECTOR": input_vector,
            "GRAD_ADJACENT": grad_adjacent,
            "GRAD_VECTOR": grad_vector,
            "POSITION_VECTOR": vector if positions % vector == 0 else 1,
            "FEATURE_VECTOR": vector if features % vector == 0 else 1,
        },
        WARPS,
    )  # fmt: skip
    return found[0] if parts == 1 else found.sum(0)


def _layout(tensor: Tensor) -> tuple[int, int]:
    """What lies side by side, and elements in 16 bytes where all of it begins at a multiple."""
    sample, position, feature = tensor.stride()
    if feature == 1:
        adjacent, other = FEATURES, position
    elif position == 1:
        adjacent, other = POSITIONS, feature
    else:
        return NEITHER, 1
    vector = 16 // tensor.element_size()
    return adjacent, vector if sample % vector == other % vector == 0 else 1
