"""The batch-size tests: from the statistics of a batch to the size that the next one needs."""

from adadagrad_kernels.criteria.coordinate_norm_test import CoordinateNormTest
from adadagrad_kernels.criteria.decision import BatchSizeCriterion, BatchSizeRule, Decision
from adadagrad_kernels.criteria.inner_product_test import (
    AugmentedInnerProductTest,
    InnerProductTest,
)
from adadagrad_kernels.criteria.norm_test import NormTest

__all__ = [
    "AugmentedInnerProductTest",
    "BatchSizeCriterion",
    "BatchSizeRule",
    "CoordinateNormTest",
    "Decision",
    "InnerProductTest",
    "NormTest",
]
