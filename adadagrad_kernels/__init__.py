"""Per-sample gradient statistics, AdaGrad kernels and adaptive batch sizes for PyTorch.

The public API is what ``__all__`` lists: kernels in ``ops``, the record of a batch's gradients and
its sources, the tests that turn it into a batch size, the objects of a training loop, and the
optimizers. docs/architecture.md shows how they fit together.
"""

from adadagrad_kernels import ops
from adadagrad_kernels.backends import use_backend
from adadagrad_kernels.batching import (
    AdaptiveBatchSampler,
    BatchController,
    MicroBatchPlanner,
    SamplesLR,
)
from adadagrad_kernels.criteria import (
    AugmentedInnerProductTest,
    BatchSizeCriterion,
    BatchSizeRule,
    CoordinateNormTest,
    Decision,
    InnerProductTest,
    NormTest,
)
from adadagrad_kernels.errors import (
    BackendUnavailableError,
    CheckpointError,
    DataFormatError,
    MissingDependencyError,
    MissingStatisticError,
    UnsupportedModelError,
)
from adadagrad_kernels.optim import Adagrad, AdagradNorm
from adadagrad_kernels.statistics import (
    GradientStatistics,
    MicroBatchGradients,
    PerSampleGradients,
    StatisticsAccumulator,
    backward_with_statistics,
    layer_statistics,
)
from adadagrad_kernels.writers import (
    CsvWriter,
    JsonlWriter,
    MetricsWriter,
    TensorBoardWriter,
    WandbWriter,
    Writers,
)

__version__ = "0.1.0"

__all__ = [
    "Adagrad",
    "AdagradNorm",
    "AdaptiveBatchSampler",
    "AugmentedInnerProductTest",
    "BackendUnavailableError",
    "BatchController",
    "BatchSizeCriterion",
    "BatchSizeRule",
    "CheckpointError",
    "CoordinateNormTest",
    "CsvWriter",
    "DataFormatError",
    "Decision",
    "GradientStatistics",
    "InnerProductTest",
    "JsonlWriter",
    "MetricsWriter",
    "MicroBatchGradients",
    "MicroBatchPlanner",
    "MissingDependencyError",
    "MissingStatisticError",
    "NormTest",
    "PerSampleGradients",
    "SamplesLR",
    "StatisticsAccumulator",
    "TensorBoardWriter",
    "UnsupportedModelError",
    "WandbWriter",
    "Writers",
    "__version__",
    "backward_with_statistics",
    "layer_statistics",
    "ops",
    "use_backend",
]
