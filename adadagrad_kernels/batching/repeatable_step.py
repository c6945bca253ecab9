"""Keeps what a step may change before its optimizer moves, so that it can be put back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics.randomness import RandomState


class RepeatableStep:
    """Remembers gradients, buffers and random states; ``restore`` brings all of them back.

    Gradients that are None cost nothing to remember, so zero them first (PyTorch's ``zero_grad``
    sets them to None). Others, and buffers such as BatchNorm's running statistics, are copied.
    Random states are those of torch's own generators: the CPU's, and those of the CUDA devices that
    hold parameters.

    Args:
        model: whose gradients and buffers the step changes.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> before = RepeatableStep(model)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> before.restore()
        >>> model.weight.grad is None
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self._gradients: list[tuple[nn.Parameter, Tensor | None, Tensor | None]] = [
            (parameter, parameter.grad, _copy(parameter.grad)) for parameter in model.parameters()
        ]
        self._buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        devices = {parameter.device for parameter in model.parameters()} or {torch.device("cpu")}
        self._random = [RandomState(device) for device in devices]

    def restore(self) -> None:
        """Puts everything back as it was; gradients keep their identity and memory."""
        with torch.no_grad():
            for parameter, gradient, copy in self._gradients:
                if gradient is not None and copy is not None:
                    gradient.copy_(copy)
                parameter.grad = gradient
            for module, name, buffer, copy in self._buffers:
                setattr(module, name, buffer.copy_(copy))
        for state in self._random:
            state.restore()


def _copy(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.detach().clone()
