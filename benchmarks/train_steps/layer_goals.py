"""Layers' gradients with statistics against the plain gradients that torch computes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from adadagrad_kernels.ops import conv_moments, linear_moments
from benchmarks.measuring.experiment import Calls, Experiment, Goal, Settings

LIMIT = 1.15

#: Samples, positions, inputs and outputs: a Transformer's, those that convolutions come to, long.
LINEAR = [
    (32, 128, 256, 256),
    (32, 128, 256, 1024),
    (32, 128, 1024, 256),
    (64, 196, 400, 32),
    (64, 49, 576, 64),
    (8, 1024, 768, 768),
]
#: Samples, input channels, output channels, width of the image: the layers of the CNN.
CONV = [(512, 1, 16, 28), (512, 16, 32, 14)]

OURS, PLAIN = "norms + variance", "plain gradient"
GOALS = [Goal(f"{OURS} / {PLAIN}", OURS, PLAIN, LIMIT)]


def experiments(settings: Settings) -> Iterator[Experiment]:
    """Every shape with as many threads as torch has."""
    for samples, positions, inputs, outputs in LINEAR[:: 3 if settings.quick else 1]:
        yield linear(samples, positions, inputs, outputs)
    for samples, inputs, outputs, width in CONV:
        yield conv(samples, inputs, outputs, width)


def linear(samples: int, positions: int, inputs: int, outputs: int) -> Experiment:
    """Beside one matrix product over the rows of all samples."""

    def contenders() -> Calls:
        x = torch.randn(samples, positions, inputs)
        grad_y = torch.randn(samples, positions, outputs)
        ours = partial(linear_moments, x, grad_y, bias=False, variance=True)
        return _compared(ours, lambda: grad_y.flatten(0, 1).t() @ x.flatten(0, 1))

    title = f"train op linear_moments, {samples} x {positions}, {inputs} to {outputs}"
    return Experiment(title, contenders, GOALS)


def conv(samples: int, inputs: int, outputs: int, width: int) -> Experiment:
    """Beside the part of torch's backward pass that gives the weight's gradient."""

    def contenders() -> Calls:
        x = torch.randn(samples, inputs, width, width)
        grad_y = torch.randn(samples, outputs, width, width)
        weight = torch.randn(outputs, inputs, 5, 5)
        ours = partial(conv_moments, x, grad_y, (5, 5), padding=2, bias=False, variance=True)

        def plain() -> Tensor:
            settings = ([0], [1, 1], [2, 2], [1, 1], False, [0, 0], 1)
            backward = torch.ops.aten.convolution_backward
            return backward(grad_y, x, weight, *settings, [False, True, False])[1]

        return _compared(ours, plain)

    title = f"train op conv_moments, {samples} x {width} x {width}, {inputs} to {outputs} channels"
    return Experiment(title, contenders, GOALS)


def _compared(ours: partial, plain: object) -> Calls:
    """Both, once their gradients have been found to be the same."""
    gradient, expected = ours().weight_grad, plain()
    off = float((gradient - expected).norm() / expected.norm())
    assert off < 1e-4, f"the weight's gradient is off by {off:.1e}"
    return {OURS: ours, PLAIN: plain}
