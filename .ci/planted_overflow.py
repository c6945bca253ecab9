"""Makes a kernel read past the end of a buffer, for `.ci/sanitize` to see it caught.

NumPy, unlike torch, makes views that claim more elements than there are. The columns beyond the
end are a whole vector of the widest instruction set, because the sanitizer does not see the masked
loads of the tail.
"""

from __future__ import annotations

import numpy as np
import torch

from adadagrad_kernels import ops, use_backend

SAMPLES, FEATURES, BEYOND = 4, 1024, 16

buffer = np.zeros(SAMPLES * FEATURES, dtype=np.float32)
view = np.lib.stride_tricks.as_strided(
    buffer, (SAMPLES, FEATURES + BEYOND), (4 * FEATURES, 4), writeable=True
)
with use_backend("cpu"):
    ops.batch_moments(torch.from_numpy(view))
print("the kernel read past the end, and nothing was reported")
