"""Several processes that train one model: who they are, and what their samples say together.

``layer_statistics(DistributedDataParallel(model))`` needs nothing of this. It is for other ways in
which gradients are reduced, for records of one rank each, for the estimate from the ranks' own
gradients, and for micro-batches that all ranks cut alike.
"""

from adadagrad_kernels.distributed.cuts import micro_batch_cuts
from adadagrad_kernels.distributed.worker_gradients import WorkerGradients
from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.statistics.pooling import pool

__all__ = ["Ranks", "WorkerGradients", "micro_batch_cuts", "pool"]
