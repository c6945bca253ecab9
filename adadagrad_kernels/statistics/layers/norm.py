"""LayerNorm, RMSNorm and GroupNorm: rules and use; the op is ``ops.norm_layer_moments``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.ops import LayerMoments, norm_layer_moments
from adadagrad_kernels.statistics.layers.registry import (
    Layer,
    Rule,
    computed_with,
    finder,
    part_of,
    runs_as,
)
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.uses import LayerUse, bias_moments, wide


@finder
def find(module: nn.Module) -> Rule | None:
    """For ``nn.LayerNorm``, ``nn.RMSNorm`` and ``nn.GroupNorm``."""
    rules = {nn.LayerNorm: _layer_norm, nn.RMSNorm: _rms_norm, nn.GroupNorm: _group_norm}
    return next((rule for kind, rule in rules.items() if runs_as(module, kind)), None)


def _layer_norm(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = _norm_use(layer, features=module.normalized_shape)
    if not recorder.called(use):
        output: Tensor = layer.forward(input)
        return output
    weight, bias = computed_with(recorder, module.weight, module.bias)
    if torch.is_autocast_enabled(input.device.type):
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


def _rms_norm(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = _norm_use(layer, features=module.normalized_shape)
    if not recorder.called(use):
        output: Tensor = layer.forward(input)
        return output
    weight, _ = computed_with(recorder, module.weight, None)
    output = F.rms_norm(input, module.normalized_shape, weight, module.eps)
    with torch.no_grad():
        values = input if input.dtype == torch.float64 else input.float()
        # As torch computes it: without an eps, that of the dtype of sums.
        eps = torch.finfo(values.dtype).eps if module.eps is None else module.eps
        axes = tuple(range(-len(module.normalized_shape), 0))
        rstd = values.square().mean(axes).add(eps).rsqrt()
    return recorder.attach(use, output, [input, rstd])


def _group_norm(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = _norm_use(layer, features=())
    if not recorder.called(use):
        output: Tensor = layer.forward(input)
        return output
    weight, bias = computed_with(recorder, module.weight, module.bias)
    samples, channels = input.shape[:2]
    sizes = (samples, channels, input.shape[2:].numel(), module.num_groups, module.eps)
    if torch.is_autocast_enabled(input.device.type):
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
    """LayerNorm, RMSNorm or GroupNorm; saved are inputs, rstd and, but for RMSNorm, mean.

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
            return bias_moments(wide(outputs).sum(1), **asked)
        inputs, rstd, mean = self._normalised(self.saved)
        bias = self.bias is not None
        kind = torch.promote_types(inputs.dtype, outputs.dtype)
        inputs, outputs = inputs.to(kind), outputs.to(kind)
        return norm_layer_moments(inputs, outputs, mean, rstd, bias=bias, **asked)

    def contributions(self, rows: slice) -> list[Tensor]:
        """Sums over positions."""
        outputs = wide(self._rows(self.grad[rows]))
        bias = [outputs.sum(1)] if self.bias is not None else []
        if self.weight is None:
            return [row.view(len(row), *self.bias.value.shape) for row in bias] if self.bias else []
        inputs, rstd, mean = self._normalised([tensor[rows] for tensor in self.saved])
        width = inputs.shape[2] // rstd.shape[2]
        values = wide(inputs)
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
