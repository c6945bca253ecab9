"""Compares what ``layer_statistics`` measures on a user's model with one sample at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics.check_table import Compared, StatisticsCheck
from adadagrad_kernels.statistics.contents import Contents
from adadagrad_kernels.statistics.layer_statistics import layer_statistics
from adadagrad_kernels.statistics.randomness import RandomState
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.wrappers import unwrapped

#: Largest relative error by the type of the parameters.
_ALLOWED = {torch.float64: 1e-7, torch.float32: 1e-3}
_ALLOWED_NARROW = 0.1
_ALONE = "samples alone"

Loss = Callable[[nn.Module, Any], Tensor]


def check_statistics(
    model: nn.Module,
    inputs: Any,
    loss: Loss,
    *,
    sample: Callable[[Any, int], Any] | None = None,
    samples: int | None = None,
    shadow: bool = False,
    rtol: float | None = None,
    show: bool = True,
) -> StatisticsCheck:
    r"""Compare a record of ``layer_statistics`` with samples alone, and its step with a plain one.

    A plain step and a measured one run on copies of the model, then every sample alone on a copy
    in float64 (or in the model's own type, if it cannot run in float64). Loss, outputs, ``.grad``,
    buffers and random numbers must be those of the plain step. Norms, inner products and variances
    must be those of the per-sample gradients :math:`g_i`, whose mean is ``.grad``. The model stays
    as it was.

    Args:
        model: the module in training; layers that draw random numbers, such as dropout, in ``eval``
            mode or with probability 0.
        inputs: what ``loss`` takes: tensors ``[samples, ...]`` in any structure.
        loss: ``loss(model, inputs)``, the mean over the samples as a scalar; or their shares
            ``[samples]``, whose sum is the loss.
        sample: ``sample(inputs, i)``, the inputs of sample i alone; by default row i of every
            tensor with as many rows as the first one. Pass it if that is wrong, as for a mask with
            as many positions as there are samples.
        samples: number of samples; by default the rows of the first tensor.
        shadow: as for ``layer_statistics``.
        rtol: largest error that counts as rounding, relative to the largest value; by default
            1e-7 in float64, 1e-3 in float32 and 0.1 in narrower types.
        show: print the table.

    Returns:
        The comparison; ``.ok`` says whether every quantity is right.

    Raises:
        UnsupportedModelError: as ``layer_statistics``, naming the layer.
        ValueError: for a model that draws random numbers, or a loss that is no sum of the samples'.

    Example:
        >>> import torch
        >>> from adadagrad_kernels import check_statistics
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        >>> batch = torch.randn(5, 3), torch.randn(5, 1)
        >>> def loss(model, batch):
        ...     return torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        >>> check_statistics(model, batch, loss, show=False).ok
        True
    """
    model, _ = unwrapped(model)
    rows = (len(tensor) for tensor in Contents.of(inputs).tensors if tensor.dim())
    samples = next(rows, 0) if samples is None else samples
    if samples < 1:
        raise ValueError(
            f"inputs hold {samples} samples; accepted are tensors [samples, ...] with at least "
            "one: pass samples= if no tensor has rows for them"
        )
    plain = _Step(model, inputs, loss)
    if plain.draws:
        raise ValueError(
            "the model draws random numbers, so a sample alone gives something else than in the "
            "batch; call .eval() on the layers that draw, such as dropout, or set their "
            "probability to 0"
        )
    expected = _one_at_a_time(model, inputs, loss, sample or _row_of(samples), samples)
    # Under autocast outputs are narrower than parameters.
    types = [*(p.dtype for p in model.parameters() if p.requires_grad)]
    types += [output.dtype for output in plain.outputs if output.is_floating_point()]
    allowed = max(_ALLOWED.get(t, _ALLOWED_NARROW) for t in types) if rtol is None else rtol
    _require_sum(plain.loss, expected, max(allowed, 0.02), plain.is_mean)
    measured = _Step(model, inputs, loss, measured=True, shadow=shadow, variance=samples > 1)
    compared = []
    for quantity, what, pairs in _quantities(plain, measured, expected):
        error, where = _worst(pairs, missing_is_zero=what is _ALONE)
        compared.append(Compared(quantity, what, error, allowed, where))
    found = StatisticsCheck(type(model).__name__, samples, tuple(compared))
    if show:
        print(found)
    return found


def _row_of(samples: int) -> Callable[[Any, int], Any]:
    def pick(inputs: Any, i: int) -> Any:
        contents = Contents.of(inputs)
        has_samples = [tensor.dim() > 0 and len(tensor) == samples for tensor in contents.tensors]
        return contents.replaced(
            [
                tensor[i : i + 1] if has else tensor
                for tensor, has in zip(contents.tensors, has_samples, strict=True)
            ]
        )

    return pick


class _Step:
    """A forward and backward pass on a copy of the model, and what is left of it."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        loss: Loss,
        *,
        measured: bool = False,
        shadow: bool = False,
        variance: bool = False,
    ) -> None:
        self.model = copy.deepcopy(model)
        self.model.zero_grad()
        self.outputs: list[Tensor] = []
        self.record: GradientStatistics | None = None
        before = RandomState(next(model.parameters()).device)
        # Every call of the model, also where a context has replaced its forward.
        self.model.register_forward_hook(self._see)
        if measured:
            with layer_statistics(
                self.model, inner_products=True, variance=variance, shadow=shadow, ranks="local"
            ) as recorder:
                value = self._run(inputs, loss)
                self.record = recorder.statistics()
        else:
            value = self._run(inputs, loss)
        self.after = RandomState(next(model.parameters()).device)
        self.draws = not self.after.same_as(before)
        before.restore()
        self.is_mean = value.dim() == 0
        self.loss = value.sum()

    def _see(self, module: nn.Module, args: Any, output: Any) -> None:
        self.outputs += [tensor.detach().clone() for tensor in Contents.of(output).tensors]

    def _run(self, inputs: Any, loss: Loss) -> Tensor:
        value = loss(self.model, inputs)
        value.sum().backward()  # type: ignore[no-untyped-call]
        return value.detach()

    @property
    def grads(self) -> dict[str, Tensor]:
        """Of the parameters that have one."""
        named = self.model.named_parameters()
        return {name: p.grad.to_dense() for name, p in named if p.grad is not None}


@dataclass
class _Samples:
    """Gradients ``[samples, elements]`` and losses of single samples; shapes of parameters."""

    gradients: Tensor
    losses: Tensor
    shapes: dict[str, torch.Size]

    def by_name(self, vector: Tensor) -> dict[str, Tensor]:
        parts = torch.split(vector, [shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}


def _one_at_a_time(
    model: nn.Module, inputs: Any, loss: Loss, sample: Callable[[Any, int], Any], samples: int
) -> _Samples:
    try:
        return _alone(copy.deepcopy(model).double(), _widened(inputs), loss, sample, samples)
    except (RuntimeError, TypeError):
        # A model may insist on its own type.
        return _alone(copy.deepcopy(model), inputs, loss, sample, samples)


def _widened(inputs: Any) -> Any:
    contents = Contents.of(inputs)
    return contents.replaced(
        [tensor.double() if tensor.is_floating_point() else tensor for tensor in contents.tensors]
    )


def _alone(
    model: nn.Module, inputs: Any, loss: Loss, sample: Callable[[Any, int], Any], samples: int
) -> _Samples:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rows, losses = [], []
    for i in range(samples):
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        value = loss(model, sample(inputs, i))
        share = value / samples if value.dim() == 0 else value.sum()
        # By backward() as in training, which reentrant checkpoints need.
        model.zero_grad()
        share.backward()  # type: ignore[no-untyped-call]
        row = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.to_dense().flatten()
            for p in parameters.values()
        ]
        rows.append(samples * torch.cat(row).double())
        losses.append(share.detach().double())
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    return _Samples(torch.stack(rows), torch.stack(losses), shapes)


def _require_sum(whole: Tensor, expected: _Samples, allowed: float, is_mean: bool) -> None:
    own = expected.losses
    if abs(float(whole) - float(own.sum())) > allowed * float(own.abs().sum()):
        kind = "the mean of the samples' own losses" if is_mean else "the sum of their shares"
        raise ValueError(
            f"loss gives {float(whole):.6g} for the batch, and {kind} is {float(own.sum()):.6g}. "
            "Ways out: return the samples' shares [samples], whose sum is the loss; pass sample= "
            "if a tensor has as many rows as the batch, but no row per sample; keep the model from "
            "mixing samples, which leaves them no gradients of their own"
        )


Pairs = Mapping[str, tuple[Any, Any]]


def _quantities(
    plain: _Step, measured: _Step, expected: _Samples
) -> Iterator[tuple[str, str, Pairs]]:
    """Name, what it is compared with, and pairs of what is found and what is expected, by name."""
    step, alone, record = "the plain step", _ALONE, measured.record
    assert record is not None
    yield "loss", step, {"": (measured.loss, plain.loss)}
    if len(plain.outputs) == len(measured.outputs) and plain.outputs:
        pairs = zip(measured.outputs, plain.outputs, strict=True)
        yield "outputs", step, {f"output {i}": pair for i, pair in enumerate(pairs)}
    yield ".grad", step, _by_name(measured.grads, plain.grads)
    buffers = [dict(each.model.named_buffers()) for each in (measured, plain)]
    if buffers[1]:
        yield "buffers", step, _by_name(*buffers)
    yield "random numbers", step, {"": (float(measured.after.same_as(plain.after)), 1.0)}
    gradients, mean = expected.gradients, expected.gradients.mean(0)
    yield "batch size", alone, {"": (record.batch_size, len(gradients))}
    yield ".grad", alone, _by_name(measured.grads, expected.by_name(mean))
    yield "squared norms", alone, {"": (record.sq_norms, gradients.square().sum(1))}
    yield "squared norm of the mean", alone, {"": (record.mean_sq_norm, mean.square().sum())}
    yield "inner products", alone, {"": (record.inner_products, gradients @ mean)}
    if record.variance is not None:
        variances = expected.by_name(gradients.var(0))
        yield "variances", alone, _by_name(record.variance, variances)


def _by_name(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Pairs:
    names = dict.fromkeys([*expected, *found])
    return {name: (found.get(name), expected.get(name)) for name in names}


def _worst(pairs: Pairs, *, missing_is_zero: bool) -> tuple[float, str]:
    """The largest error, relative to the largest value of all, and where it is."""
    sizes = [_wide(expected).abs().max() for _, expected in pairs.values() if expected is not None]
    scale = max((float(size) for size in sizes if size.numel()), default=0.0)
    errors = [
        (_distance(found, expected, missing_is_zero) / (scale or 1.0), name)
        for name, (found, expected) in pairs.items()
    ]
    return max(errors, key=lambda each: math.inf if math.isnan(each[0]) else each[0])


def _distance(found: Any, expected: Any, missing_is_zero: bool) -> float:
    if found is None or expected is None:
        known = expected if found is None else found
        if not missing_is_zero or known is None:
            return 0.0 if known is None else math.inf
        return float(_wide(known).abs().max())
    one, other = _wide(found), _wide(expected)
    if one.shape != other.shape:
        return math.inf
    return float((one - other).abs().max()) if one.numel() else 0.0


def _wide(value: Any) -> Tensor:
    return torch.as_tensor(value, device="cpu").detach().double()
