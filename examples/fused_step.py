"""The kernels alone: statistics and AdaGrad step in one pass, python examples/fused_step.py.

Linear regression, where the gradient of a sample is its residual times its features, so that the
matrix of per-sample gradients is there without automatic differentiation. The batch grows by the
norm test, written out here from what the op returns.
"""

from __future__ import annotations

import math

import torch

from adadagrad_kernels.ops import batch_adagrad_step_

SAMPLES, FEATURES, LARGEST, ETA = 4096, 512, 1024, 0.5

generator = torch.Generator().manual_seed(0)
features = torch.randn(SAMPLES, FEATURES, generator=generator)
truth = torch.randn(FEATURES, generator=generator)
targets = features @ truth + 0.1 * torch.randn(SAMPLES, generator=generator)

weight, state_sum = torch.zeros(FEATURES), torch.zeros(FEATURES)
batch_size, seen = 8, 0
while seen < 20 * SAMPLES:
    rows = torch.randint(SAMPLES, (batch_size,), generator=generator)
    residuals = features[rows] @ weight - targets[rows]
    per_sample_grads = residuals[:, None] * features[rows]
    moments = batch_adagrad_step_(weight, state_sum, per_sample_grads, lr=1.0, variance=False)

    mean_sq_norm = moments.mean.double().square().sum().item()
    spread = moments.sq_norms.sum().item() - batch_size * mean_sq_norm
    variance_norm = spread / (batch_size - 1)
    seen += batch_size
    needed = math.ceil(variance_norm / (ETA**2 * mean_sq_norm))
    if batch_size < min(needed, LARGEST):
        batch_size = min(needed, LARGEST)
        print(f"after {seen:5} samples: batch size {batch_size}")

error = (weight - truth).norm() / truth.norm()
print(f"relative error of the weights {error:.4f}")
