"""The moments of G, and AdaGrad's step along its mean, in the same pass.

Traffic: that of `batch_moments`, and 16·D bytes in float32 for the parameters and their
accumulators, read and written where the mean is at hand.
"""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels.backends.outputs import BatchMoments
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.triton.kernels._moments import Step, measure


def batch_adagrad_step_(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    rule: AdagradRule,
    variance: bool,
    inner_products: bool,
) -> BatchMoments:
    """See `backends.reference.batch_adagrad_step_`."""
    step = Step(param, state_sum, rule)
    moments = measure(per_sample_grads, variance, inner_products, step)
    increment_version([param, state_sum])
    return moments
