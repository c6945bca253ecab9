"""Linear layers: runner and use; their forms are in ``ops.linear_moments``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from adadagrad_kernels.ops import LayerMoments, linear_moments
from adadagrad_kernels.shards import kind_of
from adadagrad_kernels.statistics.layers.registry import (
    Layer,
    Runner,
    as_computed,
    computed_with,
    finder,
    part_of,
    runs_as,
)
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.uses import (
    LayerUse,
    Use,
    as_sequences,
    bias_moments,
    upcast,
)


@finder
def find(module: nn.Module) -> Runner | None:
    """For ``nn.Linear``, and ``Conv1D`` of Transformers."""
    if kind_of(module).__module__ == "transformers.pytorch_utils" and hasattr(module, "nf"):
        return _transposed_linear
    if runs_as(module, nn.Linear) or runs_as(module, NonDynamicallyQuantizableLinear):
        return _linear
    return None


def linear(
    recorder: Recorder, name: str, inputs: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """``F.linear`` with a use behind it; weight and bias may be views of parameters' rows."""
    use = LinearUse(name, weight=part_of(weight), bias=part_of(bias))
    if not use.parts or not recorder.count_call(use):
        return F.linear(inputs, weight, bias)
    inputs = as_computed(inputs)
    scale, shift = computed_with(recorder, weight, bias)
    return recorder.attach(use, F.linear(inputs, scale, shift), [inputs])


def _linear(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    return linear(recorder, layer.name, input, layer.module.weight, layer.module.bias)


def _transposed_linear(recorder: Recorder, layer: Layer, x: Tensor) -> Tensor:
    """Transformers' Conv1D, whose weight is ``[in_features, out_features]``."""
    weight, bias = layer.module.weight, layer.module.bias
    use = LinearUse(layer.name, weight=part_of(weight), bias=part_of(bias), transposed=True)
    if not recorder.count_call(use):
        output: Tensor = layer.forward(x)
        return output
    x = as_computed(x)
    value, shift = computed_with(recorder, weight, bias)
    return recorder.attach(use, F.linear(x, value.t(), shift), [x])


@dataclass(eq=False)
class LinearUse(LayerUse):
    """``F.linear`` of the saved inputs ``[samples, ..., in_features]``.

    Attributes:
        transposed: whether the weight is ``[in_features, out_features]``.
    """

    transposed: bool = False

    def moments(self, variance: bool, inner_products: bool) -> LayerMoments:
        """By ``ops.linear_moments``."""
        asked = {"variance": variance, "inner_products": inner_products}
        if self.weight is None:
            return bias_moments(as_sequences(upcast(self.grad)).sum(1), **asked)
        if not self.transposed:
            return linear_moments(self.saved[0], self.grad, bias=self.bias is not None, **asked)
        # The weight's gradient is the transpose of a linear layer's: inputs and outputs change
        # roles, and the bias goes alone.
        weight = linear_moments(self.grad, self.saved[0], bias=False, **asked)
        if self.bias is None:
            return weight
        bias = bias_moments(as_sequences(upcast(self.grad)).sum(1), **asked)
        dots_with_sum = None
        if weight.inner_products is not None and bias.inner_products is not None:
            dots_with_sum = weight.inner_products + bias.inner_products
        return weight._replace(
            bias_grad=bias.bias_grad,
            bias_variance=bias.bias_variance,
            sq_norms=weight.sq_norms + bias.sq_norms,
            inner_products=dots_with_sum,
        )

    def contributions(self, rows: slice) -> list[Tensor]:
        """A product for each sample."""
        outputs = as_sequences(upcast(self.grad[rows]))
        bias = [outputs.sum(1)] if self.bias is not None else []
        if self.weight is None:
            return bias
        inputs = as_sequences(upcast(self.saved[0][rows]))
        pair = (inputs, outputs) if self.transposed else (outputs, inputs)
        return [torch.bmm(pair[0].mT, pair[1]), *bias]

    def cross_dots(self, other: Use) -> Tensor | None:
        """Between two linear layers (a ghost inner product): sum of (x_t . x'_s) (y_t . y'_s)."""
        if not isinstance(other, LinearUse) or self.transposed != other.transposed:
            return None
        pairs = torch.bmm(self._inputs, other._inputs.mT)
        pairs *= torch.bmm(self._outputs, other._outputs.mT)
        return pairs.flatten(1).sum(1, dtype=torch.float64)

    def dots_with(self, gradient: Tensor) -> Tensor:
        """Sum over t of y_t' gradient x_t."""
        inputs, outputs = self._inputs, self._outputs
        weight = gradient.to(inputs.dtype)
        rows = inputs.flatten(0, 1).mm(weight if self.transposed else weight.t())
        return rows.view(outputs.shape).mul_(outputs).flatten(1).sum(1, dtype=torch.float64)

    @property
    def _inputs(self) -> Tensor:
        return as_sequences(upcast(self.saved[0]))

    @property
    def _outputs(self) -> Tensor:
        return as_sequences(upcast(self.grad))
