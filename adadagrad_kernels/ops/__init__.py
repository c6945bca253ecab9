"""The ops: one module each, with its formula, its checks and its dispatch to a backend."""

from adadagrad_kernels.backends.outputs import BatchMoments, LayerMoments
from adadagrad_kernels.ops.accumulate_moments import accumulate_moments_
from adadagrad_kernels.ops.adagrad_norm_step import adagrad_norm_step_
from adadagrad_kernels.ops.adagrad_step import adagrad_step_
from adadagrad_kernels.ops.batch_adagrad_step import batch_adagrad_step_
from adadagrad_kernels.ops.batch_moments import batch_moments
from adadagrad_kernels.ops.conv_moments import conv_moments
from adadagrad_kernels.ops.embedding_moments import embedding_moments
from adadagrad_kernels.ops.linear_moments import linear_moments
from adadagrad_kernels.ops.norm_layer_moments import norm_layer_moments
from adadagrad_kernels.ops.sparse_mean_step import CsrRows, sparse_mean_step_

__all__ = [
    "BatchMoments",
    "CsrRows",
    "LayerMoments",
    "accumulate_moments_",
    "adagrad_norm_step_",
    "adagrad_step_",
    "batch_adagrad_step_",
    "batch_moments",
    "conv_moments",
    "embedding_moments",
    "linear_moments",
    "norm_layer_moments",
    "sparse_mean_step_",
]
