"""A batch of inputs and targets of any structure, cut along its samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

#: Losses, outputs and tensors of inputs and targets of some samples.
Chunk = tuple[Tensor, list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Samples:
    """Tensors, or tuples, lists and dictionaries of tensors, whose first dimension is the sample.

    Anything that is not a tensor belongs to every sample.

    Attributes:
        tensors: the tensors, each ``[samples, ...]``.
        constants: the leaves in order, with None for each tensor.
        is_tensor: which leaves are tensors.
        structure: rebuilds inputs and targets from the leaves.
    """

    tensors: list[Tensor]
    constants: list[Any]
    is_tensor: list[bool]
    structure: TreeSpec

    @classmethod
    def of(cls, inputs: Any, targets: Any) -> Samples:
        """Take a batch apart.

        Raises:
            ValueError: for no tensor, a tensor without dimensions, tensors with different numbers
                of samples, or no sample at all.
        """
        leaves, structure = tree_flatten((inputs, targets))
        is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(
                "inputs and targets must be tensors [samples, ...] with the same number of "
                f"samples, or tuples, lists or dictionaries of them; got the shapes {shapes}"
            )
        if shapes[0][0] == 0:
            raise ValueError(
                f"the batch has no samples, its tensors have the shapes {shapes}; pass at least one"
            )
        constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return cls(tensors, constants, is_tensor, structure)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def chunks(self, size: int) -> list[list[Tensor]]:
        """The tensors of each run of ``size`` samples, as views; the last run may be shorter."""
        runs = [torch.split(tensor, size) for tensor in self.tensors]
        return [list(chunk) for chunk in zip(*runs, strict=True)]

    def restore(self, tensors: Sequence[Tensor]) -> tuple[Any, Any]:
        """Inputs and targets in their own structure, with these tensors in place of the batch's."""
        given = iter(tensors)
        leaves = [
            next(given) if is_tensor else constant
            for is_tensor, constant in zip(self.is_tensor, self.constants, strict=True)
        ]
        inputs, targets = tree_unflatten(leaves, self.structure)
        return inputs, targets


def concatenated_chunks(one: Chunk, other: Chunk) -> Chunk | None:
    """Two chunks as one, where their tensors are alike."""
    pairs = list(zip([*one[1], *one[2]], [*other[1], *other[2]], strict=True))
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
        return None
    tensors = [torch.cat(pair) for pair in pairs]
    return torch.cat([one[0], other[0]]), tensors[: len(one[1])], tensors[len(one[1]) :]
