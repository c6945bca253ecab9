"""Per-sample gradient statistics, AdaGrad kernels and adaptive batch sizes for PyTorch."""

from adadagrad_kernels import ops
from adadagrad_kernels.backends import use_backend

__version__ = "0.1.0"

__all__ = ["__version__", "ops", "use_backend"]
