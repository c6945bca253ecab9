"""Mean, variance, squared norms and inner products of the rows of G.

Traffic: 4·B·D bytes in float32, 2·B·D in the narrow types, up to 256 rows, and half of that again
for inner products of more rows. See `_columns.py` for the kernels and `_moments.py` for the shapes
of their tiles.
"""

from __future__ import annotations

from torch import Tensor

from adadagrad_kernels.backends.outputs import BatchMoments
from adadagrad_kernels.backends.triton.kernels._moments import measure


def batch_moments(per_sample_grads: Tensor, variance: bool, inner_products: bool) -> BatchMoments:
    """See `backends.reference.batch_moments`."""
    return measure(per_sample_grads, variance, inner_products, None)
