"""Types of the compiled module. Addresses are integers; nothing is checked on the other side."""

import enum

from torch import Tensor

def batch_moments(
    grads: int,
    type: int,
    samples: int,
    features: int,
    row_stride: int,
    mean: int,
    variance: int,
    sq_norms: int,
    inner_products: int,
    threads: int,
) -> None: ...
def batch_adagrad_step(
    param: int,
    state_sum: int,
    grads: int,
    type: int,
    samples: int,
    features: int,
    row_stride: int,
    mean: int,
    variance: int,
    sq_norms: int,
    inner_products: int,
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    threads: int,
) -> None: ...
def accumulate_moments(
    chunk: int,
    type: int,
    sizes: tuple[int, int, int, int],
    outputs: tuple[int, int, int],
    threads: int,
) -> None: ...

class Accumulators(enum.Enum):
    """Accumulators like the params, one number for each row, or one in all."""

    elements = ...
    rows = ...
    one = ...

class Update:
    """Addresses that a step reads and writes; whoever has it also holds the tensors."""

    def __init__(
        self, tensors: list[tuple[int, int, int, int, int, int]], shared: int = 0
    ) -> None: ...

def read_lists(
    device_type: int,
    device_index: int,
    params: list[Tensor],
    grads: list[Tensor],
    accumulators: list[Tensor],
    kind: Accumulators,
    grad_mode: bool,
) -> Update | None: ...
def adagrad_step(
    update: Update,
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float,
    threads: int,
) -> float: ...
def norm_layer_moments(
    inputs: int,
    grad_outputs: int,
    type: int,
    samples: int,
    positions: int,
    features: int,
    positions_adjacent: bool,
    input_sample_stride: int,
    input_stride: int,
    grad_sample_stride: int,
    grad_stride: int,
    by_feature: bool,
    mean: int,
    rstd: int,
    scale_grad: int,
    shift_grad: int,
    sq_norms: int,
    scale_variance: int,
    shift_variance: int,
    inner_products: int,
    threads: int,
) -> None: ...
def embedding_moments(
    indices: int,
    grad_outputs: int,
    type: int,
    samples: int,
    positions: int,
    features: int,
    sample_stride: int,
    position_stride: int,
    rows: int,
    padding_idx: int,
    grad: int,
    variance: int,
    sq_norms: int,
    inner_products: int,
    threads: int,
) -> None: ...
def sparse_mean_dense_step(
    grads: int,
    type: int,
    samples: int,
    features: int,
    row_stride: int,
    tensors: tuple[int, int, int, int],
    scalars: tuple[float, float, float, float],
    threads: int,
) -> float: ...
def sparse_mean_csr_step(
    row_starts: int,
    columns: int,
    wide_indices: bool,
    values: int,
    type: int,
    samples: int,
    entries: int,
    features: int,
    tensors: tuple[int, int, int, int],
    scalars: tuple[float, float, float, float],
    threads: int,
) -> float | None: ...
def use_tensor_exchange(
    capsule: object, types: tuple[type, ...], is_neg: object, requires_grad: object
) -> None: ...
def adagrad_norm_step(
    update: Update,
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float,
    threads: int,
) -> float: ...
def conv_moments(
    inputs: int,
    grad_outputs: int,
    type: int,
    sizes: tuple[int, int, int, int],
    in_size: list[int],
    out_size: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    input_strides: list[int],
    grad_strides: list[int],
    outputs: tuple[int, int, int, int, int],
    threads: int,
) -> None: ...
def subtract_square(
    grad: int, squares: int, type: int, size: int, scale: float, threads: int
) -> None: ...
def stream_read(data: int, bytes: int, threads: int) -> float: ...
def compiled_isas() -> list[str]: ...
def supported_isas() -> list[str]: ...
def active_isa() -> str: ...
def use_isa(name: str) -> None: ...
def use_openmp(library: str) -> bool: ...
