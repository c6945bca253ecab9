"""The oracle: per-sample gradients by plain autograd, one sample at a time, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from adadagrad_kernels.statistics import GradientStatistics

LossFunction = Callable[[Any, Any], Tensor]


@dataclass
class SampleLoop:
    """Every statistic of a batch from the rows of its gradient matrix."""

    names: list[str]
    shapes: list[torch.Size]
    rows: Tensor
    losses: Tensor

    @classmethod
    def run(cls, model: nn.Module, loss_fn: LossFunction, inputs: Any, targets: Any) -> SampleLoop:
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        samples = len(targets)
        rows, losses = [], []
        for i in range(samples):

            def sample(leaf: Any, i: int = i) -> Any:
                return leaf[i : i + 1] if isinstance(leaf, Tensor) else leaf

            loss = loss_fn(model(tree_map(sample, inputs)), tree_map(sample, targets))
            grads = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
            rows.append(
                torch.cat(
                    [
                        torch.zeros_like(p).flatten() if g is None else g.flatten()
                        for g, p in zip(grads, trainable.values(), strict=True)
                    ]
                )
            )
            losses.append(loss.detach())
        return cls(
            list(trainable),
            [p.shape for p in trainable.values()],
            torch.stack(rows).double(),
            torch.stack(losses).double(),
        )

    def by_name(self, vector: Tensor) -> dict[str, Tensor]:
        parts = vector.split([shape.numel() for shape in self.shapes])
        return {
            name: part.view(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def check(
        self,
        statistics: GradientStatistics,
        *,
        inner_products: bool,
        variance: bool,
        rtol: float = 1e-9,
        loss: bool = True,
    ) -> None:
        """Compare every field of a record with the definition."""
        samples, mean = len(self.rows), self.rows.mean(0)
        close = {"rtol": rtol, "atol": rtol * float(self.rows.abs().max().square() + 1)}
        assert statistics.batch_size == samples
        assert statistics.mean_gradient is not None
        assert statistics.sq_norms is not None

        def equal(actual: Any, expected: Tensor) -> None:
            torch.testing.assert_close(
                torch.as_tensor(actual, dtype=torch.float64), expected, **close
            )

        equal(statistics.mean_sq_norm, mean.square().sum())
        equal(statistics.sum_sq_norms, self.rows.square().sum())
        equal(statistics.sq_norms, self.rows.square().sum(1))
        if loss:
            equal(statistics.loss, self.losses.mean())
        assert list(statistics.mean_gradient) == self.names
        for name, expected in self.by_name(mean).items():
            equal(statistics.mean_gradient[name], expected)
        assert (statistics.variance is not None) == variance
        if statistics.variance is not None and samples > 1:
            for name, expected in self.by_name(self.rows.var(0)).items():
                equal(statistics.variance[name], expected)
        assert (statistics.inner_products is not None) == inner_products
        if statistics.inner_products is not None:
            equal(statistics.inner_products, self.rows @ mean)
            equal(statistics.sum_sq_inner_products, (self.rows @ mean).square().sum())
