"""From gradients to a step: subclasses of torch.optim.Optimizer, and sparse aggregates."""

from adadagrad_kernels.optim.adagrad import Adagrad
from adadagrad_kernels.optim.adagrad_norm import AdagradNorm
from adadagrad_kernels.optim.delayed_adagrad_norm import DelayedAdagradNorm
from adadagrad_kernels.optim.embedding_mean import EmbeddingMean
from adadagrad_kernels.optim.sparse_svrg import SparseSvrg

__all__ = ["Adagrad", "AdagradNorm", "DelayedAdagradNorm", "EmbeddingMean", "SparseSvrg"]
