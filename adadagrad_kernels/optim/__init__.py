"""Optimizers: torch.optim.Optimizer subclasses on the multi-tensor ops."""

from adadagrad_kernels.optim.adagrad import Adagrad
from adadagrad_kernels.optim.adagrad_norm import AdagradNorm

__all__ = ["Adagrad", "AdagradNorm"]
