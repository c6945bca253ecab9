"""Per-sample gradient statistics, AdaGrad kernels and adaptive batch sizes for PyTorch.

The public API is what ``__all__`` lists: kernels in ``ops``, the record of a batch's gradients and
its sources, the tests that turn it into a batch size, the objects of a training loop, and the
optimizers. docs/architecture.md shows how they fit together.
"""

from adadagrad_kernels import ops
from adadagrad_kernels.backends import use_backend
from adadagrad_kernels.batching import (
    AdaptiveBatchSampler,
    AdaScale,
    BatchController,
    BatchSizeLR,
    BatchSizeSchedule,
    CosineSchedule,
    FailureSignatures,
    LinearSchedule,
    MicroBatchPlanner,
    MilestoneSchedule,
    PlateauSchedule,
    PowerRule,
    SamplesLR,
    Schedule,
    SmoothedStatistics,
    StepSchedule,
    megatron_rampup,
    megatron_schedule,
    per_doubling,
)
from adadagrad_kernels.criteria import (
    CABS,
    AugmentedInnerProductTest,
    BatchSizeCriterion,
    BatchSizeRule,
    CoordinateNormTest,
    Decision,
    GradientDiversity,
    GradientNoiseScale,
    GradientSimilarity,
    InnerProductTest,
    MetricNormTest,
    NormTest,
    RandomIncrease,
    SmallestOf,
    two_batch_noise_scale,
)
from adadagrad_kernels.errors import (
    BackendUnavailableError,
    CheckpointError,
    DataFormatError,
    MissingStatisticError,
    UnsupportedModelError,
)
from adadagrad_kernels.ops import CsrRows
from adadagrad_kernels.optim import (
    Adagrad,
    AdagradNorm,
    DelayedAdagradNorm,
    EmbeddingMean,
    SparseSvrg,
)
from adadagrad_kernels.statistics import (
    GradientStatistics,
    MicroBatchGradients,
    PerSampleGradients,
    StatisticsAccumulator,
    backward_with_statistics,
    layer_statistics,
)

__version__ = "0.1.0"

__all__ = [
    "CABS",
    "AdaScale",
    "Adagrad",
    "AdagradNorm",
    "AdaptiveBatchSampler",
    "AugmentedInnerProductTest",
    "BackendUnavailableError",
    "BatchController",
    "BatchSizeCriterion",
    "BatchSizeLR",
    "BatchSizeRule",
    "BatchSizeSchedule",
    "CheckpointError",
    "CoordinateNormTest",
    "CosineSchedule",
    "CsrRows",
    "DataFormatError",
    "Decision",
    "DelayedAdagradNorm",
    "EmbeddingMean",
    "FailureSignatures",
    "GradientDiversity",
    "GradientNoiseScale",
    "GradientSimilarity",
    "GradientStatistics",
    "InnerProductTest",
    "LinearSchedule",
    "MetricNormTest",
    "MicroBatchGradients",
    "MicroBatchPlanner",
    "MilestoneSchedule",
    "MissingStatisticError",
    "NormTest",
    "PerSampleGradients",
    "PlateauSchedule",
    "PowerRule",
    "RandomIncrease",
    "SamplesLR",
    "Schedule",
    "SmallestOf",
    "SmoothedStatistics",
    "SparseSvrg",
    "StatisticsAccumulator",
    "StepSchedule",
    "UnsupportedModelError",
    "__version__",
    "backward_with_statistics",
    "layer_statistics",
    "megatron_rampup",
    "megatron_schedule",
    "ops",
    "per_doubling",
    "two_batch_noise_scale",
    "use_backend",
]
