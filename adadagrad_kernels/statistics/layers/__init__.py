"""The kinds of layers that are measured, a file each: its runner, its use, and its modules."""

# Importing a kind enters it into the registry; the order is that in which they are asked.
from adadagrad_kernels.statistics.layers import (
    conv,
    embedding,
    embedding_bag,
    linear,
    norm,
    recurrent,
)
from adadagrad_kernels.statistics.layers.registry import register_layer
from adadagrad_kernels.statistics.layers.selection import is_normalization

__all__ = [
    "conv",
    "embedding",
    "embedding_bag",
    "is_normalization",
    "linear",
    "norm",
    "recurrent",
    "register_layer",
]
