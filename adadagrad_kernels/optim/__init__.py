"""Optimizers: torch.optim.Optimizer subclasses on the multi-tensor ops."""

from adadagrad_kernels.optim.adagrad import Adagrad
from adadagrad_kernels.optim.adagrad_norm import AdagradNorm
from adadagrad_kernels.optim.delayed_adagrad_norm import DelayedAdagradNorm

__all__ = ["Adagrad", "AdagradNorm", "DelayedAdagradNorm"]
