"""Whether the samples of a batch are apart from each other, asked of the model itself.

A model whose layers mix samples has no per-sample gradients, and nothing in a backward pass tells.
So before the first measured forward pass of a model a few of its samples are run twice, the second
time with another sample in the place of the first: what the others give must not change.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.randomness import RandomState


@dataclass(frozen=True)
class Inputs:
    """What a model says of the inputs of its layers.

    Attributes:
        unbatched: layers whose input does not grow with the batch.
        exchanged: whether samples were exchanged, which takes two of them.
    """

    unbatched: frozenset[str] = frozenset()
    exchanged: bool = False


#: Models that were asked already.
_asked: weakref.WeakKeyDictionary[nn.Module, Inputs] = weakref.WeakKeyDictionary()

_TOLERANCE = 1e-3


def ask_once(
    model: nn.Module,
    forward: Callable[..., Any],
    layers: dict[str, nn.Module],
    samples: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Inputs:
    """What the model says of its layers' inputs, after it was asked.

    Args:
        model: asked once with two samples or more; later calls return the answer.
        forward: its forward, with layers that are not measured.
        layers: those to look at, by name.
        samples: rows of the batch.
        args: of the model's call.
        kwargs: likewise.

    Raises:
        UnsupportedModelError: naming the first module that mixes samples.
    """
    known = _asked.get(model)
    if known is None or (samples > 1 and not known.exchanged):
        _asked[model] = _ask(model, forward, layers, samples, args, kwargs)
    return _asked[model]


def _ask(
    model: nn.Module,
    forward: Callable[..., Any],
    layers: dict[str, nn.Module],
    samples: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Inputs:
    # Not as many as the batch has, so that what has their number of rows has samples.
    count = 3 if samples != 3 else 2
    rows = [i % samples for i in range(count)]
    others = [1 % samples, *rows[1:]]
    try:
        first, sizes = _outputs(model, forward, layers, samples, rows, args, kwargs)
        second, _ = _outputs(model, forward, layers, samples, others, args, kwargs)
        fewer = [i % samples for i in range(2 if count == 3 and samples != 2 else 4)]
        _, again = _outputs(model, forward, layers, samples, fewer, args, kwargs)
    except (UnsupportedModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # a model that takes no other batch size than this cannot be asked
        return Inputs(exchanged=samples > 1)
    if samples > 1:
        for name, output in first.items():
            if name in second and not _equal(output, second[name], count):
                raise UnsupportedModelError(
                    f"{name} mixes the samples of a batch: what it gives for one of them changes "
                    "when another is exchanged, so that a sample has no gradient of its own. Ways "
                    "out: take the operation across the batch out of the model; or estimate the "
                    "variance from micro-batches with MicroBatchGradients"
                )
    return Inputs(
        frozenset(name for name, shapes in sizes.items() if _rows(shapes) == _rows(again[name])),
        exchanged=samples > 1,
    )


def _rows(shapes: set[torch.Size]) -> set[int]:
    return {shape[0] for shape in shapes}


def _outputs(
    model: nn.Module,
    forward: Callable[..., Any],
    layers: dict[str, nn.Module],
    samples: int,
    rows: Sequence[int],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[dict[str, list[Tensor]], dict[str, set[torch.Size]]]:
    """Outputs of every module in the order in which they ran, and shapes of the layers' inputs."""
    outputs: dict[str, list[Tensor]] = {}
    sizes: dict[str, set[torch.Size]] = defaultdict(set)
    names = {module: name for name, module in layers.items()}

    def pick(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == samples:
            return leaf[torch.tensor(rows, device=leaf.device)]
        return leaf

    def see(module: nn.Module, args: Any, output: Any) -> None:
        path = paths[module]
        name = f"layer '{path}' ({type(module).__name__})" if path else "the model"
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        outputs.setdefault(name, []).extend(_kept(tensor.detach(), len(rows)) for tensor in tensors)
        # Attention may have its samples in the second dimension.
        if module in names and not isinstance(module, nn.MultiheadAttention):
            given = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            if given and given[0].dim() > 0:
                sizes[names[module]].add(given[0].shape)

    paths = {module: path for path, module in model.named_modules()}
    given, named = tree_map(pick, (args, kwargs))
    with _unchanged(model), torch.no_grad():
        handles = [module.register_forward_hook(see) for module in paths]
        try:
            result = forward(*given, **named)
        finally:
            for handle in handles:
                handle.remove()
    see(model, (), result)
    return outputs, sizes


#: Elements from which on an output is kept as sums over so many blocks of each sample.
_LARGE, _BLOCKS = 1 << 18, 4096


def _kept(output: Tensor, count: int) -> Tensor:
    """A copy, or of a large output with samples first weighted sums over blocks of each sample."""
    blockwise = output.numel() > _LARGE and output.is_floating_point() and len(output) == count
    if not blockwise or sum(size == count for size in output.shape) > 1:
        return output.clone()
    values = output.reshape(count, -1)
    size = -(-values.shape[1] // _BLOCKS)
    whole = values.shape[1] // size * size
    weights = torch.arange(1, size + 1, device=output.device, dtype=torch.float32).sin_()
    weights = weights.to(output.dtype)
    sums = values[:, :whole].reshape(count, -1, size) @ weights
    if whole < values.shape[1]:
        rest = values[:, whole:] @ weights[: values.shape[1] - whole]
        sums = torch.cat([sums, rest.unsqueeze(1)], 1)
    return sums


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Random generators and buffers are afterwards as they were."""
    device = next(model.parameters()).device
    state = RandomState(device)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        state.restore()
        for buffer, before in buffers:
            if not torch.equal(buffer, before):
                buffer.copy_(before)


def _equal(ours: list[Tensor], theirs: list[Tensor], count: int) -> bool:
    """Whether all but the first sample agree, in any dimension that could be the samples'."""
    for one, other in zip(ours, theirs, strict=False):
        dimensions = [d for d, size in enumerate(one.shape) if size == count]
        if one.shape != other.shape or 0 not in dimensions:
            continue
        kept = ((one.narrow(d, 1, count - 1), other.narrow(d, 1, count - 1)) for d in dimensions)
        if not any(_close(*pair) for pair in kept):
            return False
    return True


def _close(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    finite = one[one.isfinite()]
    scale = float(finite.abs().amax()) if finite.numel() else 0.0
    close = torch.isclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)
    return bool(close.all())
