"""The oracle of layer_statistics: b times the gradient of each sample's share of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics import GradientStatistics


class Shares:
    """Per-sample gradients of any loss that is a sum over the samples, one at a time.

    Args:
        model: the module in training.
        share: what sample i adds to the loss; their sum is the loss whose gradient is wanted.
        samples: how many there are.
    """

    def __init__(self, model: nn.Module, share: Callable[[int], Tensor], samples: int) -> None:
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        rows = []
        for i in range(samples):
            grads = torch.autograd.grad(share(i), list(self.parameters.values()), allow_unused=True)
            rows.append(
                torch.cat(
                    [
                        torch.zeros_like(p).flatten() if g is None else g.to_dense().flatten()
                        for g, p in zip(grads, self.parameters.values(), strict=True)
                    ]
                ).double()
            )
        self.rows = samples * torch.stack(rows)

    def _by_name(self, vector: Tensor) -> dict[str, Tensor]:
        parts = vector.split([p.numel() for p in self.parameters.values()])
        return {n: part.view(p.shape) for (n, p), part in zip(self.parameters.items(), parts,
                                                              strict=True)}  # fmt: skip

    def check(self, model: nn.Module, record: GradientStatistics | None, rtol: float) -> None:
        """Every field that is there, and ``.grad``."""
        assert record is not None
        samples, mean = len(self.rows), self.rows.mean(0)
        scale = float(self.rows.square().sum(1).max())

        def equal(actual: Any, expected: Tensor, size: float = scale) -> None:
            actual = torch.as_tensor(actual, dtype=torch.float64)
            torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * size + 1e-30)

        assert record.batch_size == samples
        assert record.sq_norms is not None
        equal(record.sq_norms, self.rows.square().sum(1))
        equal(record.sum_sq_norms, self.rows.square().sum())
        equal(record.mean_sq_norm, mean.square().sum())
        widest = float(self.rows.abs().max())
        for name, expected in self._by_name(mean).items():
            grad = dict(model.named_parameters())[name].grad
            found = torch.zeros_like(expected) if grad is None else grad.to_dense()
            equal(found, expected, widest)
        if record.variance is not None:
            assert list(record.variance) == list(self.parameters)
            for name, expected in self._by_name(self.rows.var(0)).items():
                equal(record.variance[name], expected, widest**2)
        if record.inner_products is not None:
            equal(record.inner_products, self.rows @ mean)
