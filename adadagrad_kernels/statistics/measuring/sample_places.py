"""Where a value that all samples share meets the samples, read from a node of the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Node = Any


@dataclass(frozen=True)
class Place:
    """Where the samples are in a gradient: ``each`` neighbours in a dimension belong to one."""

    dimension: int
    each: int = 1

    def only(self, grad: Tensor, sample: int) -> Tensor:
        """Zeros except in the sample's part."""
        kept = torch.zeros_like(grad)
        part = (self.dimension, sample * self.each, self.each)
        kept.narrow(*part).copy_(grad.narrow(*part))
        return kept


def meets(
    node: Node,
    slot: int,
    given: torch.Size,
    samples: int,
    has_samples: Callable[[Node], bool],
    passes: type,
) -> Place | None:
    """Where the samples are in a node's output, of whose inputs one is shared; None if nowhere."""
    if isinstance(node, passes) or not node._input_metadata:
        return None
    result, kind = shape_of(node, 0), node.name()
    if kind.startswith(_MATRIX_PRODUCTS):
        return _meets_in_matrix_product(node, slot, samples, has_samples)
    padded = (1,) * (len(result) - len(given)) + tuple(given)
    if kind.startswith("RepeatBackward"):
        for dimension, (size, before) in enumerate(zip(result, padded, strict=True)):
            if size == before * samples:
                return Place(dimension, before)
        return None
    if kind.startswith(("Index", "Gather")):
        return Place(0) if len(result) > len(given) and result[0] == samples else None
    # A broadcast makes more elements; those of a concatenation or padding belong to no sample.
    grows = result.numel() > given.numel() and len(result) >= len(given)
    if not grows or kind.startswith(("Cat", "Stack", "ConstantPad")):
        return None
    if kind.startswith("Convolution"):  # with a kernel that others made
        return Place(0) if result[0] == samples else None
    along = _along_samples(result, padded, samples)
    # Without a broadcast only the first dimension is known to hold the samples.
    return (
        Place(along) if along == 0 or (kind.startswith(_BROADCAST) and along is not None) else None
    )


_BROADCAST = (
    "AddBackward", "SubBackward", "RsubBackward", "MulBackward", "DivBackward", "WhereBackward",
    "ExpandBackward", "LerpBackward", "AddcmulBackward", "AddcdivBackward", "MaximumBackward",
    "MinimumBackward", "PowBackward", "MaskedFillBackward",
)  # fmt: skip


def _along_samples(result: torch.Size, padded: tuple[int, ...], samples: int) -> int | None:
    """The first dimension in which a value has grown from one to the number of samples."""
    for dimension, (size, before) in enumerate(zip(result, padded, strict=True)):
        if size == samples and before == 1:
            return dimension
    return None


def is_doubtful(node: Node, given: torch.Size, samples: int) -> bool:
    """Whether a value may have met either the samples or another dimension of the same length.

    So it is if as many rows of a table are looked up as there are samples; and if a value grows in
    another dimension than the first by an operation that does not broadcast.
    """
    result, kind = shape_of(node, 0) if node._input_metadata else torch.Size(), node.name()
    if kind.startswith("IndexPut"):
        return True
    if kind.startswith("Index") and len(result) == len(given):
        return result[0] == samples
    known = ("Convolution", "Cat", "Stack", "ConstantPad", "Repeat", *_BROADCAST, *_MATRIX_PRODUCTS)
    if kind.startswith(known) or len(result) < len(given) or result.numel() <= given.numel():
        return False
    padded = (1,) * (len(result) - len(given)) + tuple(given)
    return _along_samples(result, padded, samples) not in (0, None)


_MATRIX_PRODUCTS = ("MmBackward", "AddmmBackward", "BmmBackward", "BaddbmmBackward")


def _meets_in_matrix_product(
    node: Node, slot: int, samples: int, has_samples: Callable[[Node], bool]
) -> Place | None:
    """The same of a product of matrices, in whose rows or columns other dimensions may be."""
    result = shape_of(node, 0)
    first = 1 if node.name().startswith(("Addmm", "Baddbmm")) else 0
    if slot < first or result[:-2].numel() != 1:
        return None  # a bias, or matrices that were expanded before they met
    other = node.next_functions[first + 1 if slot == first else first][0]
    dimension = len(result) - (1 if slot == first else 2)
    if result[dimension] % samples == 0 and has_samples(other):
        return Place(dimension, result[dimension] // samples)
    return None


def shape_of(node: Node, output: int) -> torch.Size:
    """Of an output of a node."""
    return torch.Size(node._input_metadata[output].shape)
