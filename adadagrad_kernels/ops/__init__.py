"""The ops: one module each, with its formula, its checks and its dispatch to a backend."""

from adadagrad_kernels.ops.adagrad_norm_step import adagrad_norm_step_
from adadagrad_kernels.ops.adagrad_step import adagrad_step_
from adadagrad_kernels.ops.batch_adagrad_step import batch_adagrad_step_
from adadagrad_kernels.ops.batch_moments import BatchMoments, batch_moments

__all__ = [
    "BatchMoments",
    "adagrad_norm_step_",
    "adagrad_step_",
    "batch_adagrad_step_",
    "batch_moments",
]
