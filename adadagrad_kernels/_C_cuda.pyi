"""Types of the compiled module. Addresses are integers; nothing is checked on the other side."""

import enum
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

class CudaError(RuntimeError): ...

# Device, handle of its stream, and what gives so many bytes of its memory.
_Place: TypeAlias = tuple[int, int, Callable[[int], int]]
# lr, eps, weight_decay, grad_scale, maximize
_Scalars: TypeAlias = tuple[float, float, float, float, bool]
# lr, grad_scale, found_inf on the device, or 0
_DeviceAddresses: TypeAlias = tuple[int, int, int]
# param, grad, accumulator, elements, rows, element type
_Tensors: TypeAlias = list[tuple[int, int, int, int, int, int]]

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
    place: _Place,
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
    place: _Place,
) -> None: ...
def accumulate_moments(
    chunk: int,
    type: int,
    sizes: tuple[int, int, int, int],
    outputs: tuple[int, int, int],
    place: _Place,
) -> None: ...

class Accumulators(enum.Enum):
    """Accumulators like the params, one number for each row, or one in all."""

    elements = ...
    rows = ...
    one = ...

class Update:
    """Addresses that a step reads and writes; whoever has it also holds the tensors."""

    def __init__(self, tensors: _Tensors, shared: int = 0) -> None: ...

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
    update: Update, scalars: _Scalars, device: _DeviceAddresses, sq_norm: int, place: _Place
) -> None: ...
def adagrad_norm_step(
    update: Update, scalars: _Scalars, device: _DeviceAddresses, sq_norm: int, place: _Place
) -> None: ...
def use_tensor_exchange(
    capsule: object, types: tuple[type, ...], is_neg: object, requires_grad: object
) -> None: ...
def runtime_info() -> tuple[int, int, int, str]: ...
def compute_capability(device: int) -> tuple[int, int]: ...
def obstacle(device: int) -> str: ...
