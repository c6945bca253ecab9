"""The gate between tensors and kernels: the only module that asks a tensor for its memory.

Kernels take addresses, so everything that an address cannot say (device, layout, overlap, a tensor
without storage) is settled here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Element types of every op, and the type in which their sums are kept.
ACCUMULATION_DTYPES = {
    torch.float32: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
    torch.float64: torch.float64,
}

#: What is read as it is; subclasses may keep their elements elsewhere.
PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def require_plain(name: str, tensor: Tensor) -> None:
    """Refuse what has no memory of its own that a kernel could read or write.

    Raises:
        ValueError: for anything but a strided ``torch.Tensor`` or ``Parameter`` with storage.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if type(tensor) not in PLAIN_TYPES:
        hint = "pass its local shard, .to_local()" if hasattr(tensor, "to_local") else "unwrap it"
        raise ValueError(
            f"{name} is a {type(tensor).__name__}, whose memory a kernel cannot address; "
            f"accepted are torch.Tensor and torch.nn.Parameter: {hint}"
        )
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name} has layout {tensor.layout}; accepted is torch.strided")
    if tensor.is_conj() or tensor.is_neg():
        raise ValueError(f"{name} is a lazy conjugate or negation; pass {name}.resolve_neg()")
    if tensor.device.type == "meta" or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise ValueError(
            f"{name} has no storage (device {tensor.device}, or inside a torch.func transform); "
            "call the op outside vmap and grad, on real tensors"
        )


def require_dtype(name: str, tensor: Tensor) -> None:
    """Refuse element types that no kernel reads."""
    if tensor.dtype not in ACCUMULATION_DTYPES:
        accepted = ", ".join(str(dtype) for dtype in ACCUMULATION_DTYPES)
        raise ValueError(f"{name} has dtype {tensor.dtype}; accepted are {accepted}")


def require_same(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse tensors of another device, dtype or shape than ``other``."""
    for what in ("device", "dtype", "shape"):
        given, expected = getattr(tensor, what), getattr(other, what)
        if given != expected:
            if what == "shape":
                given, expected = tuple(given), tuple(expected)
            raise ValueError(
                f"{name} has {what} {given}, but {other_name} has {expected}; they must agree"
            )


def require_dense(name: str, tensor: Tensor) -> None:
    """Refuse tensors with holes or with elements that share memory: they are written in place."""
    if tensor.is_contiguous():
        return
    expected = 1
    for size, stride in sorted(
        ((n, s) for n, s in zip(tensor.shape, tensor.stride(), strict=True) if n != 1),
        key=lambda pair: pair[1],
    ):
        if stride != expected:
            raise ValueError(
                f"{name} of shape {tuple(tensor.shape)} has strides {tensor.stride()}: its "
                "elements overlap or leave holes; accepted is any dense layout, so pass a "
                "contiguous tensor and copy the result back"
            )
        expected *= size


def require_no_graph(name: str, tensor: Tensor) -> None:
    """Refuse to write behind the back of autograd, or to lose a graph silently."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires grad, and this op is not differentiable; "
            "call it under torch.no_grad() or pass a detached tensor"
        )


def check_per_sample_grads(
    per_sample_grads: Tensor, *, variance: bool, name: str = "per_sample_grads"
) -> None:
    """Check ``G[samples, features]`` for the ops that read it."""
    require_plain(name, per_sample_grads)
    if per_sample_grads.dim() != 2:
        raise ValueError(
            f"{name} must be 2-D [samples, features], got shape {tuple(per_sample_grads.shape)}; "
            "flatten each sample's gradient, e.g. with .flatten(1)"
        )
    require_dtype(name, per_sample_grads)
    require_no_graph(name, per_sample_grads)
    samples, features = per_sample_grads.shape
    if samples == 0:
        raise ValueError(
            f"{name} has shape {tuple(per_sample_grads.shape)}, without samples; accepted is at "
            "least one, which a mean needs: skip empty batches"
        )
    if variance and samples == 1:
        raise ValueError(
            "a variance needs at least two samples, got a batch of one; "
            "pass variance=False, or keep the batch size at two or more"
        )
    if features > 1 and per_sample_grads.stride(1) != 1:
        raise ValueError(
            f"{name} has strides {per_sample_grads.stride()}; rows may be any distance apart, but "
            "the elements of a row must be adjacent: pass .contiguous()"
        )


def check_layer_tensors(inputs: Tensor, grad_outputs: Tensor, *, variance: bool) -> None:
    """Check a layer's inputs and output gradients, ``[samples, ...]``, for the ops that read them.

    They are often saved tensors of a graph, which the ops only read: grad mode is not asked for.
    """
    require_plain("inputs", inputs)
    require_dtype("inputs", inputs)
    check_grad_outputs(grad_outputs, variance=variance)
    for what in ("device", "dtype"):
        if getattr(inputs, what) != getattr(grad_outputs, what):
            raise ValueError(
                f"inputs has {what} {getattr(inputs, what)}, but grad_outputs has "
                f"{getattr(grad_outputs, what)}; they must agree"
            )
    if inputs.dim() < 2 or len(inputs) != len(grad_outputs):
        raise ValueError(
            f"inputs has shape {tuple(inputs.shape)} and grad_outputs {tuple(grad_outputs.shape)}; "
            "both must be [samples, ..., features] with the same samples"
        )


def check_grad_outputs(grad_outputs: Tensor, *, variance: bool) -> None:
    """Check the output gradients of a layer, ``[samples, ..., features]``."""
    name = "grad_outputs"
    require_plain(name, grad_outputs)
    require_dtype(name, grad_outputs)
    if grad_outputs.dim() < 2 or len(grad_outputs) == 0:
        raise ValueError(
            f"{name} must be [samples, ..., features] with at least one sample, got shape "
            f"{tuple(grad_outputs.shape)}"
        )
    if variance and len(grad_outputs) == 1:
        raise ValueError(
            "a variance needs at least two samples, got a batch of one; "
            "pass variance=False, or keep the batch size at two or more"
        )


def check_csr(crow_indices: Tensor, col_indices: Tensor, values: Tensor) -> None:
    """Check types, devices and shapes of sparse rows; ``values`` has passed its own checks."""
    indices = (("crow_indices", crow_indices), ("col_indices", col_indices))
    for name, tensor in indices:
        require_plain(name, tensor)
    for name, tensor in indices:
        if tensor.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} has dtype {tensor.dtype}; accepted are int64 and int32")
        if tensor.device != values.device or tensor.dtype != col_indices.dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device}, with col_indices of "
                f"{col_indices.dtype} and values on {values.device}; devices and the types of "
                "indices must agree"
            )
    if crow_indices.dim() != 1 or len(crow_indices) == 0 or values.dim() != 1:
        raise ValueError(
            f"crow_indices has shape {tuple(crow_indices.shape)} and values "
            f"{tuple(values.shape)}; accepted are [samples + 1] and [entries]"
        )
    if col_indices.shape != values.shape:
        raise ValueError(
            f"col_indices has shape {tuple(col_indices.shape)} and values {tuple(values.shape)}; "
            "there must be one column for each value"
        )


def check_csr_indices(
    crow_indices: Tensor, col_indices: Tensor, values: Tensor, features: int
) -> None:
    """Check that rows and columns are those of ``[samples, features]``, which reads them all."""
    first, last = crow_indices[0].item(), crow_indices[-1].item()
    if first != 0 or last != len(values):
        raise ValueError(
            f"crow_indices runs from {first} to {last}; accepted is from 0 to {len(values)}, the "
            "number of entries"
        )
    falls = crow_indices[1:] < crow_indices[:-1]
    if falls.any():
        row = int(falls.nonzero()[0])
        raise ValueError(
            f"crow_indices falls from {int(crow_indices[row])} to {int(crow_indices[row + 1])} "
            f"after row {row}; accepted are rows that end where they start or after"
        )
    if len(values):
        low, high = (int(bound) for bound in torch.aminmax(col_indices))
        if low < 0 or high >= features:
            raise ValueError(
                f"col_indices run from {low} to {high}; accepted are 0 to {features - 1}, the "
                "elements of param"
            )


def device_scalar(name: str, value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A number that kernels read where it lies, as ``dtype``; converting does not wait for it.

    Raises:
        ValueError: for anything but one real number on ``device``.
    """
    require_plain(name, value)
    if value.numel() != 1 or value.device != device or not value.is_floating_point():
        raise ValueError(
            f"{name} is a tensor of shape {tuple(value.shape)}, dtype {value.dtype}, on "
            f"{value.device}; accepted is one floating-point number on {device}, or a float"
        )
    return value.detach().to(dtype).view(())


def check_updated(names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    """Check tensors of one update that share device, dtype, shape and layout.

    The first is the parameter; all that the op writes are dense and do not require grad.
    """
    first_name, first = names[0], tensors[0]
    for name, tensor in zip(names, tensors, strict=True):
        require_plain(name, tensor)
        require_dtype(name, tensor)
        require_same(name, tensor, first_name, first)
        require_dense(name, tensor)
        if not _same_order(tensor, first):
            raise ValueError(
                f"{name} has strides {tensor.stride()}, but {first_name} has {first.stride()}; "
                "their elements must lie in the same order"
            )
        if name != "grad":
            require_no_graph(name, tensor)


def _same_order(tensor: Tensor, other: Tensor) -> bool:
    """Whether two dense tensors of one shape list their elements in the same order."""
    if tensor.stride() == other.stride():
        return True
    return all(
        size == 1 or ours == theirs
        for size, ours, theirs in zip(tensor.shape, tensor.stride(), other.stride(), strict=True)
    )


def require_distinct(name: str, tensors: Sequence[Tensor]) -> None:
    """Refuse a list that holds one memory twice: two threads would write it at the same time."""
    starts = [address(tensor) for tensor in tensors if tensor.numel()]
    if len(set(starts)) != len(starts):
        raise ValueError(f"{name} holds the same tensor more than once; pass each one once")


def require_disjoint(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse two tensors whose memory overlaps, one of which is written."""
    first, second = _extent(tensor), _extent(other)
    if first[0] < second[1] and second[0] < first[1]:
        raise ValueError(f"{name} and {other_name} overlap in memory; pass separate tensors")


def _extent(tensor: Tensor) -> tuple[int, int]:
    if tensor.numel() == 0:
        return (0, 0)
    start = address(tensor)
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return (start, start + (last + 1) * tensor.element_size())


def address(tensor: Tensor) -> int:
    """The address of a checked tensor's first element.

    Raises:
        ValueError: where the tensor has elements but no storage.
    """
    try:
        pointer = tensor.data_ptr()
    except RuntimeError as error:
        raise ValueError(f"the tensor has no storage: {error}") from error
    if pointer == 0 and tensor.numel():
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} has no storage (address 0); "
            "fake and sharded tensors must be made real first"
        )
    return pointer
