"""A model and data that all ranks make alike, and the statistics of all samples by autograd."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels import GradientStatistics
from adadagrad_kernels.statistics import SampleSpread

SAMPLES = 24


def network() -> nn.Sequential:
    """In float64, with the same parameters on every rank."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3)
        return nn.Sequential(*layers).double()


def data(samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Of all ranks."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (samples,), generator=generator)


def share(samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Of this rank: every so manyth sample."""
    inputs, targets = data(samples)
    return inputs[dist.get_rank() :: dist.get_world_size()], targets[
        dist.get_rank() :: dist.get_world_size()
    ]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean over the samples."""
    return F.cross_entropy(outputs, targets)


@dataclass(frozen=True)
class Expected:
    """Of the gradients of single samples, row by row."""

    rows: Tensor
    shapes: dict[str, torch.Size]

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor, targets: Tensor) -> Expected:
        parameters = dict(model.named_parameters())
        rows = []
        for i in range(len(inputs)):
            value = loss(model(inputs[i : i + 1]), targets[i : i + 1])
            grads = torch.autograd.grad(value, list(parameters.values()))
            rows.append(torch.cat([grad.flatten() for grad in grads]))
        return cls(torch.stack(rows), {name: p.shape for name, p in parameters.items()})

    def errors(self, record: GradientStatistics) -> dict[str, float]:
        """How far a record is from it, relative to each quantity; what it lacks is left out."""
        mean = self.rows.mean(0)
        products = self.rows @ mean
        found = {
            "batch_size": (float(record.batch_size), float(len(self.rows))),
            "mean_sq_norm": (record.mean_sq_norm, float(mean.square().sum())),
            "sum_sq_norms": (record.sum_sq_norms, float(self.rows.square().sum())),
        }
        if record.sum_sq_inner_products is not None:
            expected = float(products.square().sum())
            found["sum_sq_inner_products"] = (record.sum_sq_inner_products, expected)
        errors = {name: abs(ours / theirs - 1.0) for name, (ours, theirs) in found.items()}
        flat = {"mean_gradient": mean}
        if len(self.rows) > 1:
            flat["variance"] = self.rows.var(0)
        for name, expected_values in flat.items():
            given = getattr(record, name)
            if given is not None:
                ours = torch.cat([given[key].flatten() for key in self.shapes])
                far = torch.linalg.vector_norm(ours.double() - expected_values)
                errors[name] = float(far / torch.linalg.vector_norm(expected_values))
        if record.spread is not None or record.inner_products is not None:
            errors["noise_estimate"] = self.far_spread(record)
        return errors

    def far_spread(self, record: GradientStatistics) -> float:
        """How far the error bars of a record are from those of one process with all samples."""
        squares, products = self.rows.square().sum(1), self.rows @ self.rows.mean(0)
        theirs = SampleSpread.of(squares, products).estimate()
        ours = record.noise_estimate
        names = ("noise", "signal", "noise_variance", "signal_variance", "covariance")
        pairs = [(getattr(ours, name), getattr(theirs, name)) for name in names]
        return max(abs(one / other - 1.0) for one, other in pairs)
