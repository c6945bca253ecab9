"""From statistics to batches: controller, sampler, micro-batches, sample-based schedules."""

from __future__ import annotations

from adadagrad_kernels.batching.batch_size_lr import BatchSizeLR
from adadagrad_kernels.batching.controller import BatchController
from adadagrad_kernels.batching.group_batches import GroupBatches
from adadagrad_kernels.batching.late_switch import LateSwitchSchedule
from adadagrad_kernels.batching.learning_rate_rules import (
    AdaScale,
    LearningRateRule,
    PowerRule,
    per_doubling,
)
from adadagrad_kernels.batching.megatron_schedules import megatron_rampup, megatron_schedule
from adadagrad_kernels.batching.memory import MemoryModel, PeakMemory, is_out_of_memory
from adadagrad_kernels.batching.micro_batches import MicroBatchPlanner
from adadagrad_kernels.batching.one_cycle import OneCycleSchedule
from adadagrad_kernels.batching.plateau_schedule import PlateauSchedule
from adadagrad_kernels.batching.sampler import AdaptiveBatchSampler
from adadagrad_kernels.batching.samples_lr import SamplesLR
from adadagrad_kernels.batching.schedule_curves import (
    CosineSchedule,
    LinearSchedule,
    StepSchedule,
)
from adadagrad_kernels.batching.schedules import BatchSizeSchedule, MilestoneSchedule, Schedule
from adadagrad_kernels.batching.signatures import FailureSignatures, Finding
from adadagrad_kernels.batching.smoothing import SmoothedStatistics
from adadagrad_kernels.batching.warmup_stable_decay import WarmupStableDecay

__all__ = [
    "AdaScale",
    "AdaptiveBatchSampler",
    "BatchController",
    "BatchSizeLR",
    "BatchSizeSchedule",
    "CosineSchedule",
    "FailureSignatures",
    "Finding",
    "GroupBatches",
    "LateSwitchSchedule",
    "LearningRateRule",
    "LinearSchedule",
    "MemoryModel",
    "MicroBatchPlanner",
    "MilestoneSchedule",
    "OneCycleSchedule",
    "PeakMemory",
    "PlateauSchedule",
    "PowerRule",
    "SamplesLR",
    "Schedule",
    "SmoothedStatistics",
    "StepSchedule",
    "WarmupStableDecay",
    "is_out_of_memory",
    "megatron_rampup",
    "megatron_schedule",
    "per_doubling",
]
