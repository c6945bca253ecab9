"""Batch-size criteria: from the statistics of a batch to the size of the next one."""

from adadagrad_kernels.criteria.cabs import CABS
from adadagrad_kernels.criteria.coordinate_norm_test import CoordinateNormTest
from adadagrad_kernels.criteria.decision import BatchSizeCriterion, BatchSizeRule, Decision
from adadagrad_kernels.criteria.gradient_diversity import GradientDiversity
from adadagrad_kernels.criteria.gradient_noise_scale import (
    GradientNoiseScale,
    two_batch_noise_scale,
)
from adadagrad_kernels.criteria.gradient_similarity import GradientSimilarity
from adadagrad_kernels.criteria.inner_product_test import (
    AugmentedInnerProductTest,
    InnerProductTest,
)
from adadagrad_kernels.criteria.metric_norm_test import MetricNormTest
from adadagrad_kernels.criteria.norm_test import NormTest
from adadagrad_kernels.criteria.random_increase import RandomIncrease
from adadagrad_kernels.criteria.smallest_of import SmallestOf
from adadagrad_kernels.criteria.spectral_norm_test import SpectralNormTest

__all__ = [
    "CABS",
    "AugmentedInnerProductTest",
    "BatchSizeCriterion",
    "BatchSizeRule",
    "CoordinateNormTest",
    "Decision",
    "GradientDiversity",
    "GradientNoiseScale",
    "GradientSimilarity",
    "InnerProductTest",
    "MetricNormTest",
    "NormTest",
    "RandomIncrease",
    "SmallestOf",
    "SpectralNormTest",
    "two_batch_noise_scale",
]
