"""From statistics to batches: controller, sampler, micro-batches, sample-based schedules."""

from __future__ import annotations

from adadagrad_kernels.batching.controller import BatchController
from adadagrad_kernels.batching.memory import MemoryModel, PeakMemory, is_out_of_memory
from adadagrad_kernels.batching.micro_batches import MicroBatchPlanner
from adadagrad_kernels.batching.sampler import AdaptiveBatchSampler
from adadagrad_kernels.batching.samples_lr import SamplesLR

__all__ = [
    "AdaptiveBatchSampler",
    "BatchController",
    "MemoryModel",
    "MicroBatchPlanner",
    "PeakMemory",
    "SamplesLR",
    "is_out_of_memory",
]
