"""What the gradients of a batch say: the mergeable record, and the sources that fill it."""

from adadagrad_kernels.statistics.accumulator import StatisticsAccumulator
from adadagrad_kernels.statistics.check import check_statistics
from adadagrad_kernels.statistics.check_table import StatisticsCheck
from adadagrad_kernels.statistics.layer_statistics import layer_statistics
from adadagrad_kernels.statistics.layers import is_normalization, register_layer
from adadagrad_kernels.statistics.linear_models import LinearGradients, linear_gradients
from adadagrad_kernels.statistics.micro_batches import MicroBatchGradients
from adadagrad_kernels.statistics.noise_estimate import NoiseEstimate, SampleSpread
from adadagrad_kernels.statistics.per_sample import (
    PerSampleGradients,
    backward_with_statistics,
)
from adadagrad_kernels.statistics.ratio_estimate import RatioEstimate
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.spectral import SpectralNoise

__all__ = [
    "GradientStatistics",
    "LinearGradients",
    "MicroBatchGradients",
    "NoiseEstimate",
    "PerSampleGradients",
    "RatioEstimate",
    "SampleSpread",
    "SpectralNoise",
    "StatisticsAccumulator",
    "StatisticsCheck",
    "backward_with_statistics",
    "check_statistics",
    "is_normalization",
    "layer_statistics",
    "linear_gradients",
    "register_layer",
]
