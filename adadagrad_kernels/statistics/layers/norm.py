"""LayerNorm, RMSNorm and GroupNorm: runners and use; the op is ``ops.norm_layer_moments``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.ops import LayerMoments, norm_layer_moments
from adadagrad_kernels.shards import is_sharded
from adadagrad_kernels.statistics.layers.by_vmap import call_module
from adadagrad_kernels.statistics.layers.registry import (
    Layer,
    Runner,
    computed_with,
    finder,
    part_of,
    runs_as,
)
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.uses import LayerUse, bias_moments, upcast


@finder
def find(module: nn.Module) -> Runner | None:
    """For ``nn.LayerNorm``, ``nn.RMSNorm``, ``nn.GroupNorm`` and classes that compute as they do.

    The last are those of other libraries that match the first two, such as Transformers' RMSNorms.
    """
    runners = {nn.LayerNorm: _layer_norm, nn.RMSNorm: _rms_norm, nn.GroupNorm: _group_norm}
    known = next((runner for kind, runner in runners.items() if runs_as(module, kind)), None)
    return known or _by_structure(module)


def _by_structure(module: nn.Module) -> Runner | None:
    """The runner for a module of another class whose parameters scale and shift normalised inputs.

    The module itself is asked: adding one to the weight must change the output by the normalised
    input, adding one to the bias by one.
    """
    parameters: dict[str, Any] = dict(module.named_parameters())
    eps = _eps_of(module)
    weight = parameters.get("weight")
    plain = (
        set(parameters) in ({"weight"}, {"weight", "bias"})
        and all(p.dim() == 1 and p.is_floating_point() for p in parameters.values())
        and len({len(p) for p in parameters.values()}) == 1
        and next(module.children(), None) is None
        and next(module.buffers(), None) is None
    )
    if not plain or eps is None or weight is None or len(weight) < 2 or weight.is_meta:
        return None
    kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
    inputs = (torch.arange(3 * len(weight), dtype=kind, device=weight.device) + 0.5).sin()
    inputs = 2 * inputs.view(3, -1) + 0.5
    try:
        changes = _changes(module, inputs)
    except Exception:  # what cannot be asked so is of another kind
        return None
    for centred in (False, True):
        normalised = _normalised(inputs, eps, centred)
        expected = {"weight": normalised, "bias": torch.ones_like(inputs)}
        close = (torch.allclose(change, expected[n], 1e-3, 1e-3) for n, change in changes.items())
        if all(close):
            return functools.partial(_norm_by_structure, eps, centred)
    return None


def _eps_of(module: nn.Module) -> float | None:
    names = ("variance_epsilon", "eps", "epsilon", "norm_eps")
    values = (module.__dict__.get(name) for name in names)
    return next((float(value) for value in values if isinstance(value, int | float)), None)


@torch.no_grad()
def _changes(module: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The change of the output when one is added to each parameter, which is then put back."""
    device = inputs.device.type
    # Of sharded ones the values are not here, and any others do.
    values = {
        name: inputs.new_zeros(p.shape) if is_sharded(p) else p.detach().to(inputs.dtype)
        for name, p in module.named_parameters()
    }
    changes = {}
    with torch.autocast(device, enabled=False):
        for name, value in values.items():
            outputs = []
            for more in (0.0, 1.0):
                with _holding(module, values | {name: value + more}):
                    outputs.append(type(module).forward(module, inputs).to(inputs.dtype))
            changes[name] = outputs[1] - outputs[0]
    return changes


@contextmanager
def _holding(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Puts other tensors in place of a module's parameters."""
    held: Any = module._parameters
    before = {name: held[name] for name in values}
    held.update(values)
    try:
        yield
    finally:
        held.update(before)


def _normalised(inputs: Tensor, eps: float, centred: bool) -> Tensor:
    """Inputs normalised over their last dimension, in the dtype of sums."""
    rstd, mean = _statistics(inputs, eps, centred)
    values = upcast(inputs) if mean is None else upcast(inputs) - mean.unsqueeze(-1)
    return values * rstd.unsqueeze(-1)


def _statistics(inputs: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor | None]:
    """The last dimension's 1 / sqrt(mean square + eps), and its mean if that is taken off."""
    values = upcast(inputs)
    mean = values.mean(-1) if centred else None
    if mean is not None:
        values = values - mean.unsqueeze(-1)
    return _rstd(values, -1, eps), mean


def _rstd(values: Tensor, axes: int | tuple[int, ...], eps: float) -> Tensor:
    """In one pass: torch's norm of a vector makes no squares as large as the inputs."""
    norms = torch.linalg.vector_norm(values, dim=axes)
    elements = values.numel() // max(1, norms.numel())
    rstd: Tensor = norms.square_().div_(elements).add_(eps).rsqrt_()
    return rstd


def _norm_by_structure(
    eps: float, centred: bool, recorder: Recorder, layer: Layer, *args: Any, **kwargs: Any
) -> Any:
    module = layer.module
    if len(args) != 1 or kwargs or args[0].shape[-1:] != module.weight.shape:
        return call_module(recorder, layer, *args, **kwargs)
    use = _norm_use(layer, features=tuple(module.weight.shape))
    if not recorder.count_call(use):
        return layer.forward(*args)
    held = {} if recorder.shadow else {n: p.detach() for n, p in module.named_parameters()}
    with _holding(module, held):
        output = layer.forward(*args)
    with torch.no_grad():
        rstd, mean = _statistics(args[0], eps, centred)
    saved = [args[0], rstd] if mean is None else [args[0], rstd, mean]
    return recorder.attach(use, output, saved)


def _layer_norm(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = _norm_use(layer, features=module.normalized_shape)
    if not recorder.count_call(use):
        output: Tensor = layer.forward(input)
        return output
    weight, bias = computed_with(recorder, module.weight, module.bias)
    if _statistics_apart(input, weight):
        output = F.layer_norm(input, module.normalized_shape, weight, bias, module.eps)
        with torch.no_grad():
            _, mean, rstd = torch.native_layer_norm(
                input.float(), module.normalized_shape, None, None, module.eps
            )
    else:
        output, mean, rstd = torch.native_layer_norm(
            input, module.normalized_shape, weight, bias, module.eps
        )
    return recorder.attach(use, output, [input, rstd.detach(), mean.detach()])


def _statistics_apart(input: Tensor, weight: Tensor | None) -> bool:
    """Whether the native call would give another output than torch's function, or round statistics.

    These have the dtype of the weight.
    """
    kind = input.device.type
    if not torch.is_autocast_enabled(kind):
        return False
    narrow = (input if weight is None else weight).dtype not in (torch.float32, torch.float64)
    return narrow or not _autocast_leaves_norms(kind)


@functools.cache
def _autocast_leaves_norms(kind: str) -> bool:
    """Whether autocast hands on what LayerNorm and GroupNorm are given; on CUDA it widens that."""
    small = torch.zeros(1, 2, 1, dtype=torch.bfloat16, device=kind)
    with torch.no_grad(), torch.autocast(kind, dtype=torch.bfloat16):
        outputs = F.layer_norm(small, (1,)), F.group_norm(small, 1)
    return all(output.dtype == small.dtype for output in outputs)


def _rms_norm(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = _norm_use(layer, features=module.normalized_shape)
    if not recorder.count_call(use):
        output: Tensor = layer.forward(input)
        return output
    weight, _ = computed_with(recorder, module.weight, None)
    output = F.rms_norm(input, module.normalized_shape, weight, module.eps)
    with torch.no_grad():
        eps = _rms_eps(input.dtype) if module.eps is None else module.eps
        axes = tuple(range(-len(module.normalized_shape), 0))
        rstd = _rstd(upcast(input), axes, eps)
    return recorder.attach(use, output, [input, rstd])


@functools.cache
def _rms_eps(dtype: torch.dtype) -> float:
    """What torch adds where no eps is given: that of the dtype of sums; in 2.6 that of inputs."""
    sums = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    small = torch.full((1,), 1e-2, dtype=dtype, device="cpu")
    return sums if F.rms_norm(small, (1,)).item() > 0.5 else torch.finfo(dtype).eps


def _group_norm(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = _norm_use(layer, features=())
    if not recorder.count_call(use):
        output: Tensor = layer.forward(input)
        return output
    weight, bias = computed_with(recorder, module.weight, module.bias)
    samples, channels = input.shape[:2]
    sizes = (samples, channels, input.shape[2:].numel(), module.num_groups, module.eps)
    if _statistics_apart(input, weight):
        output = F.group_norm(input, module.num_groups, weight, bias, module.eps)
        with torch.no_grad():
            _, mean, rstd = torch.native_group_norm(_dense(input.float()), None, None, *sizes)
    else:
        input = _dense(input)
        output, mean, rstd = torch.native_group_norm(input, weight, bias, *sizes)
    return recorder.attach(use, output, [input, rstd.detach(), mean.detach()])


def _norm_use(layer: Layer, features: tuple[int, ...]) -> NormUse:
    module = layer.module
    return NormUse(
        layer.name,
        weight=part_of(module.weight),
        bias=part_of(getattr(module, "bias", None)),
        features=torch.Size(features).numel() if features else 0,
        folds=bool(features),
    )


def _dense(inputs: Tensor) -> Tensor:
    """In a layout that the kernels of GroupNorm take, as F.group_norm passes it to them."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = layouts.get(inputs.dim(), torch.contiguous_format)
    if inputs.is_contiguous(memory_format=layout):
        return inputs
    return inputs.contiguous()


@dataclass(eq=False)
class NormUse(LayerUse):
    """LayerNorm, RMSNorm or GroupNorm; saved are inputs, rstd and, except for RMSNorm, mean.

    Attributes:
        features: elements of the weight, the trailing dimensions of the inputs; 0 where channels
            come second (GroupNorm).
    """

    features: int = 0

    def moments(self, variance: bool, inner_products: bool) -> LayerMoments:
        """By ``ops.norm_layer_moments``."""
        outputs = self._rows(self.grad)
        asked = {"variance": variance, "inner_products": inner_products}
        if self.weight is None:
            return bias_moments(upcast(outputs).sum(1), **asked)
        inputs, rstd, mean = self._normalised(self.saved)
        bias = self.bias is not None
        kind = torch.promote_types(inputs.dtype, outputs.dtype)
        inputs, outputs = inputs.to(kind), outputs.to(kind)
        return norm_layer_moments(inputs, outputs, mean, rstd, bias=bias, **asked)

    def contributions(self, rows: slice) -> list[Tensor]:
        """Sums over positions."""
        outputs = upcast(self._rows(self.grad[rows]))
        bias = [outputs.sum(1)] if self.bias is not None else []
        if self.weight is None:
            return [row.view(len(row), *self.bias.value.shape) for row in bias] if self.bias else []
        inputs, rstd, mean = self._normalised([tensor[rows] for tensor in self.saved])
        width = inputs.shape[2] // rstd.shape[2]
        values = upcast(inputs)
        if mean is not None:
            values = values - mean.repeat_interleave(width, 2)
        weight = (outputs * values * rstd.repeat_interleave(width, 2)).sum(1)
        return [weight.view(len(weight), *self.weight.value.shape), *bias]

    def _rows(self, tensor: Tensor) -> Tensor:
        """``[samples, positions, features]``."""
        if self.features:
            return tensor.reshape(len(tensor), -1, self.features)
        return tensor.reshape(*tensor.shape[:2], tensor.shape[2:].numel()).mT

    def _normalised(self, saved: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        inputs, *statistics = saved
        shape = (len(inputs), -1, 1) if self.features else (len(inputs), 1, -1)
        kind = torch.float64 if inputs.dtype == torch.float64 else torch.float32
        rstd, *mean = [tensor.to(kind).reshape(shape) for tensor in statistics]
        return self._rows(inputs), rstd, mean[0] if mean else None
