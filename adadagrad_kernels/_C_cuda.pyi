"""Types of the compiled module. Addresses are integers; nothing is checked on the other side."""

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
def adagrad_step(
    tensors: _Tensors, scalars: _Scalars, device: _DeviceAddresses, sq_norm: int, place: _Place
) -> None: ...
def adagrad_norm_step(
    tensors: _Tensors,
    shared: int,
    scalars: _Scalars,
    device: _DeviceAddresses,
    sq_norm: int,
    place: _Place,
) -> None: ...
def adagrad_step_lists(
    device_type: int,
    params: list[Tensor],
    grads: list[Tensor],
    state_sums: list[Tensor],
    scalars: _Scalars,
    device: _DeviceAddresses,
    sq_norm: int,
    place: _Place,
) -> bool: ...
def adagrad_norm_step_lists(
    device_type: int,
    params: list[Tensor],
    grads: list[Tensor],
    shared: int,
    scalars: _Scalars,
    device: _DeviceAddresses,
    sq_norm: int,
    place: _Place,
) -> bool: ...
def use_tensor_exchange(capsule: object, types: tuple[type, ...]) -> None: ...
def runtime_info() -> tuple[int, int, int, str]: ...
def compute_capability(device: int) -> tuple[int, int]: ...
