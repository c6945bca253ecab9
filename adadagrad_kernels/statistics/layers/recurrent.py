"""LSTM, GRU and RNN: runner and use.

The layer runs as it is, and autograd computes its gradient. For the samples' contributions its
recurrence is run again step by step, with zeros added to what goes into the gates: their gradients
are those of the products in every step, of which each weight's contribution is a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.layers.registry import Layer, Runner, finder
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.samples import no_sample_rows_message
from adadagrad_kernels.statistics.measuring.uses import Part, Use, upcast


@finder
def find(module: nn.Module) -> Runner | None:
    """For ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``."""
    return _recurrent if type(module) in (nn.LSTM, nn.GRU, nn.RNN) else None


def _recurrent(recorder: Recorder, layer: Layer, input: Any, hx: Any = None) -> Any:
    """The module's forward, with its arguments.

    Raises:
        UnsupportedModelError: for packed sequences, and for dropout between its layers.
        ValueError: for an input without a dimension for the samples.
    """
    module = layer.module
    if isinstance(input, PackedSequence):
        raise UnsupportedModelError(
            f"{layer.name} got a packed sequence, which has no rows for the samples. Way out: "
            "pass padded sequences [samples, positions, features] and take each sample's last "
            "output by its length; the loss must leave the padding out"
        )
    if module.training and module.dropout and module.num_layers > 1:
        raise UnsupportedModelError(
            f"{layer.name} has dropout between its layers, which a sample alone cannot draw again. "
            "Way out: a module for each layer, with nn.Dropout between them"
        )
    if input.dim() != 3:
        raise ValueError(
            f"{layer.name} has an input of shape {tuple(input.shape)} without a dimension for the "
            "samples; pass a batch, [samples, positions, features] with batch_first=True"
        )
    use = RecurrentUse(layer.name, module=module, own=layer.own)
    if not recorder.count_call(use):
        return layer.forward(input, hx)
    output, last = layer.forward(input, hx)
    states = () if hx is None else tuple(hx) if isinstance(hx, tuple) else (hx,)
    rows = input.shape[0 if module.batch_first else 1]
    if recorder.samples_of(use, rows) != rows:
        raise ValueError(no_sample_rows_message(layer.name, rows))
    lasts = last if isinstance(last, tuple) else (last,)
    # What the output passes to the last state inside the module is not the state's own gradient.
    views = [tensor.view_as(tensor) for tensor in (output, *lasts)]
    recorder.observe(use, views, [input, *states])
    return views[0], tuple(views[1:]) if isinstance(last, tuple) else views[1]


@dataclass(eq=False)
class RecurrentUse(Use):
    """A recurrent layer called once; saved are its input and initial states.

    Attributes:
        module: what was called.
        own: its parameters that require grad, by name.
    """

    module: Any = None
    own: dict[str, nn.Parameter] = field(default_factory=dict)
    _found: dict[str, tuple[Tensor, Tensor]] | None = None

    @property
    def parts(self) -> list[Part]:
        """Its own parameters."""
        return [Part(parameter, 0, parameter) for parameter in self.own.values()]

    @property
    def samples(self) -> int:
        """In the first dimension of the input or in the second."""
        return self.saved[0].shape[0 if self.module.batch_first else 1]

    def contributions(self, rows: slice) -> list[Tensor]:
        """Of every weight: sum over the steps of gradients times inputs."""
        found = self._steps()
        contributions = []
        for name in self.own:
            kind, key = name.split("_", 1)
            grads, inputs = (tensor[rows] for tensor in found[key])
            contributions.append(grads.sum(1) if kind == "bias" else torch.bmm(grads.mT, inputs))
        return contributions

    def release(self) -> None:
        """Give back the memory of what was saved."""
        super().release()
        self._found = None

    def _steps(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By weight: gradients and inputs of its matrix products, [samples, steps, features]."""
        if self._found is None:
            with torch.enable_grad():
                steps = _Steps()
                outputs = self._run(steps)
                places = sorted(self.grads)
                given = [upcast(self._steps_first(self.grads[place], place)) for place in places]
                taps = [tap for each in steps.taps.values() for tap in each]
                results = [outputs[place] for place in places]
                grads = iter(torch.autograd.grad(results, taps, given, materialize_grads=True))
            self._found = {
                key: (
                    torch.stack([next(grads) for _ in steps.taps[key]], 1),
                    torch.stack(inputs, 1).detach(),
                )
                for key, inputs in steps.inputs.items()
            }
        return self._found

    def _steps_first(self, tensor: Tensor, place: int) -> Tensor:
        """States have their samples in the second dimension whatever ``batch_first`` says."""
        return tensor.transpose(0, 1) if place == 0 and self.module.batch_first else tensor

    def _run(self, steps: _Steps) -> list[Tensor]:
        """The outputs of the module, steps first."""
        module = self.module
        x = upcast(self._steps_first(self.saved[0].detach(), 0))
        states = [upcast(state.detach()) for state in self.saved[1:]]
        lasts: list[list[Tensor]] = []
        directions = 2 if module.bidirectional else 1
        for layer in range(module.num_layers):
            outputs = []
            for turn in range(directions):
                known = [state[layer * directions + turn] for state in states]
                output, last = self._direction(x, known, layer, bool(turn), steps)
                outputs.append(output)
                lasts.append(last)
            x = torch.cat(outputs, -1)
        return [x, *(torch.stack(each) for each in zip(*lasts, strict=True))]

    def _direction(
        self, x: Tensor, known: list[Tensor], layer: int, backwards: bool, steps: _Steps
    ) -> tuple[Tensor, list[Tensor]]:
        module, suffix = self.module, f"_l{layer}" + ("_reverse" if backwards else "")
        projects = getattr(module, "proj_size", 0) > 0
        width = module.proj_size if projects else module.hidden_size
        h = known[0] if known else x.new_zeros(x.shape[1], width)
        c = known[1] if len(known) > 1 else x.new_zeros(x.shape[1], module.hidden_size)
        outputs = []
        for step in range(len(x))[:: -1 if backwards else 1]:
            into = self._matrix_product("ih" + suffix, x[step], steps)
            over = self._matrix_product("hh" + suffix, h, steps)
            h, c = _CELLS[module.mode](into, over, h, c)
            if projects:
                h = self._matrix_product("hr" + suffix, h, steps)
            outputs.append(h)
        last = [h, c] if isinstance(module, nn.LSTM) else [h]
        return torch.stack(outputs[:: -1 if backwards else 1]), last

    def _matrix_product(self, key: str, inputs: Tensor, steps: _Steps) -> Tensor:
        weight = upcast(getattr(self.module, f"weight_{key}").detach())
        bias = getattr(self.module, f"bias_{key}", None)
        output = F.linear(inputs, weight, None if bias is None else upcast(bias.detach()))
        return steps.tapped(key, inputs, output)


class _Steps:
    """Inputs of every matrix product, by its weight's name, and zeros added to its output."""

    def __init__(self) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.taps: dict[str, list[Tensor]] = {}

    def tapped(self, key: str, inputs: Tensor, output: Tensor) -> Tensor:
        tap = torch.zeros_like(output, requires_grad=True)
        self.inputs.setdefault(key, []).append(inputs)
        self.taps.setdefault(key, []).append(tap)
        return output + tap


Cell = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _lstm(into: Tensor, over: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = (into + over).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(into: Tensor, over: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    (r, z, n), (r_over, z_over, n_over) = into.chunk(3, 1), over.chunk(3, 1)
    z = (z + z_over).sigmoid()
    n = (n + (r + r_over).sigmoid() * n_over).tanh()
    return (1 - z) * n + z * h, c


def _rnn_tanh(into: Tensor, over: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return (into + over).tanh(), c


def _rnn_relu(into: Tensor, over: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return (into + over).relu(), c


_CELLS: dict[str, Cell] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN_TANH": _rnn_tanh,
    "RNN_RELU": _rnn_relu,
}
