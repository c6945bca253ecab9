"""Several processes that train one model: their ranks, and the statistics of all their samples.

``layer_statistics(DistributedDataParallel(model))`` needs none of this. It is for other ways to
reduce gradients, for records of one rank each, for the estimates from the ranks' own gradients
(DDP-Norm, and local SGD's), for micro-batches that all ranks cut alike, and for errors of one rank
in code that exchanges nothing.
"""

from adadagrad_kernels.distributed.cuts import micro_batch_cuts
from adadagrad_kernels.distributed.local_gradients import LocalGradients
from adadagrad_kernels.distributed.worker_gradients import WorkerGradients
from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.shared_errors import shared_errors
from adadagrad_kernels.statistics.pooling import pool

__all__ = [
    "LocalGradients",
    "Ranks",
    "WorkerGradients",
    "micro_batch_cuts",
    "pool",
    "shared_errors",
]
