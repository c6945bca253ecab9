"""How each kind of layer runs while it is measured: forward on detached parameters, then a use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.layerwise.products import ConvUse, LinearUse, padded
from adadagrad_kernels.statistics.layerwise.recorder import Recorder
from adadagrad_kernels.statistics.layerwise.rows import EmbeddingUse, NormUse
from adadagrad_kernels.statistics.layerwise.uses import Part


@dataclass(frozen=True, eq=False)
class Layer:
    """A module with parameters of its own.

    Attributes:
        name: path and type, for messages.
        module: the module.
        forward: its own forward.
        own: its own parameters that require grad, by their name in the module.
    """

    name: str
    module: Any
    forward: Callable[..., Any]
    own: dict[str, nn.Parameter]


Rule = Callable[..., Any]


def find_rule(module: nn.Module) -> Rule | None:
    """The rule for a module, or None where its forward is not that of a known kind."""
    if has_forward_of_its_own(module):
        return None
    if parametrize.is_parametrized(module) or not _has_plain_parameters(module):
        return None
    if type(module).__module__ == "transformers.pytorch_utils" and hasattr(module, "nf"):
        return _transposed_linear
    for kind, rule in RULES.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            overridden = getattr(type(module), "_conv_forward", None)
            if overridden is getattr(kind, "_conv_forward", None) and _takes(module):
                return rule
    return None


def has_forward_of_its_own(module: nn.Module) -> bool:
    """Whether somebody put another forward on the instance than that of its class."""
    forward = module.__dict__.get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


def _has_plain_parameters(module: nn.Module) -> bool:
    """Not so where a hook computes the weight from others, as older kinds of weight_norm do."""
    values = (getattr(module, name, None) for name in ("weight", "bias"))
    return all(value is None or isinstance(value, nn.Parameter) for value in values)


def _takes(module: nn.Module) -> bool:
    # A hook computes it of other parameters, as in pruning and the older weight normalisation.
    computed = (getattr(module, name, None) for name in ("weight", "bias"))
    if any(isinstance(t, Tensor) and not isinstance(t, nn.Parameter) for t in computed):
        return False
    if isinstance(module, nn.Embedding):
        return not module.scale_grad_by_freq
    return True


def linear(
    recorder: Recorder, name: str, inputs: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """``F.linear`` with a use behind it; weight and bias may be views of parameters' rows."""
    use = LinearUse(name, weight=_part(weight), bias=_part(bias))
    if not use.parts or not recorder.called(use):
        return F.linear(inputs, weight, bias)
    inputs = _as_computed(inputs)
    scale, shift = _parameters(recorder, weight, bias)
    return recorder.attach(use, F.linear(inputs, scale, shift), [inputs])


def _linear(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    return linear(recorder, layer.name, input, layer.module.weight, layer.module.bias)


def _transposed_linear(recorder: Recorder, layer: Layer, x: Tensor) -> Tensor:
    """Transformers' Conv1D, whose weight is ``[in_features, out_features]``."""
    weight, bias = layer.module.weight, layer.module.bias
    use = LinearUse(layer.name, weight=_part(weight), bias=_part(bias), transposed=True)
    if not recorder.called(use):
        output: Tensor = layer.forward(x)
        return output
    x = _as_computed(x)
    value, shift = _parameters(recorder, weight, bias)
    return recorder.attach(use, F.linear(x, value.t(), shift), [x])


def _conv(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = ConvUse(
        layer.name,
        weight=_part(module.weight),
        bias=_part(module.bias),
        kernel_size=module.kernel_size,
        stride=module.stride,
        dilation=module.dilation,
        groups=module.groups,
        least_dimensions=len(module.kernel_size) + 2,
    )
    if not recorder.called(use):
        output: Tensor = layer.forward(input)
        return output
    sides = module._reversed_padding_repeated_twice
    input, use.padding = padded(_as_computed(input), tuple(sides), module.padding_mode)
    run = (F.conv1d, F.conv2d, F.conv3d)[len(module.kernel_size) - 1]
    weight, bias = _parameters(recorder, module.weight, module.bias)
    output = run(
        input,
        weight,
        bias,
        module.stride,
        use.padding,
        module.dilation,
        module.groups,
    )
    return recorder.attach(use, output, [input])


def _embedding(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = EmbeddingUse(
        layer.name,
        weight=_part(module.weight),
        padding_idx=module.padding_idx,
        sparse=module.sparse,
    )
    if not recorder.called(use):
        output: Tensor = layer.forward(input)
        return output
    weight, _ = _parameters(recorder, module.weight, None)
    output = F.embedding(
        input, weight, module.padding_idx, module.max_norm, module.norm_type, sparse=module.sparse
    )
    if input.dim() == 1 and recorder.lacks_samples(use, len(input)):
        # Positions that all samples share, which broadcast over the batch.
        input, output = input.unsqueeze(0), output.unsqueeze(0)
    return recorder.attach(use, output, [input])


def _layer_norm(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = _norm_use(layer, features=module.normalized_shape)
    if not recorder.called(use):
        output: Tensor = layer.forward(input)
        return output
    weight, bias = _parameters(recorder, module.weight, module.bias)
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
    weight, _ = _parameters(recorder, module.weight, None)
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
    weight, bias = _parameters(recorder, module.weight, module.bias)
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


RULES: dict[type[Any], Rule] = {
    nn.Linear: _linear,
    NonDynamicallyQuantizableLinear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
}


def _norm_use(layer: Layer, features: tuple[int, ...]) -> NormUse:
    module = layer.module
    return NormUse(
        layer.name,
        weight=_part(module.weight),
        bias=_part(getattr(module, "bias", None)),
        features=torch.Size(features).numel() if features else 0,
    )


def _part(value: Tensor | None) -> Part | None:
    """A parameter that requires grad, or rows of one."""
    if value is None or not value.requires_grad:
        return None
    if isinstance(value, nn.Parameter):
        return Part(value, 0, value)
    base = value._base
    if not isinstance(base, nn.Parameter):
        raise UnsupportedModelError(
            "a layer runs with tensors in the place of its parameters, such as from "
            "torch.func.functional_call. Ways out: call the model itself; or leave the context "
            "for such calls"
        )
    return Part(base, int(value.storage_offset() - base.storage_offset()), value)


def _parameters(recorder: Recorder, weight: Any, bias: Any) -> tuple[Any, Any]:
    """What the layer computes with: apart from the graph, but where autograd does the work."""
    if recorder.shadow:
        return weight, bias
    return (
        None if weight is None else weight.detach(),
        None if bias is None else bias.detach(),
    )


def _dense(inputs: Tensor) -> Tensor:
    """In a layout that the kernels of GroupNorm take, as F.group_norm passes it to them."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = layouts.get(inputs.dim(), torch.contiguous_format)
    if inputs.is_contiguous(memory_format=layout):
        return inputs
    return inputs.contiguous()


def _as_computed(inputs: Tensor) -> Tensor:
    """In the dtype that autocast computes in, so that this is what is kept, as autograd does."""
    kind = inputs.device.type
    if not torch.is_autocast_enabled(kind) or inputs.dtype == torch.float64:
        return inputs
    return inputs.to(torch.get_autocast_dtype(kind))
