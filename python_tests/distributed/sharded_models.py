"""A model of ``fully_shard`` and its record, against plain autograd's over all samples at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from small_models import SAMPLES, Expected, data, network
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import adadagrad_kernels as adk


def sharded(model: nn.Sequential, *, layers: bool = True, root: bool = True, **how: Any) -> Any:
    """The model with ``fully_shard`` on its layers, around them, or both."""
    if layers:
        for layer in model:
            if list(layer.parameters()):
                fully_shard(layer, **how)
    return fully_shard(model, **how) if root else model


def replicated(parts: int) -> Any:
    """A mesh of replicas, each of so many parts."""
    shape = dist.get_world_size() // parts, parts
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))


def own_losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(model(inputs), targets, reduction="none")


def weighted(model: nn.Module, inputs: Tensor, targets: Tensor, *, by: float) -> Tensor:
    """What these samples are of the mean loss over all ranks, whose sum is divided by ``by``."""
    return F.cross_entropy(model(inputs), targets, reduction="sum") * by / SAMPLES


def whole(tensors: dict[str, Any] | None) -> dict[str, Tensor] | None:
    if tensors is None:
        return None
    return {n: t.full_tensor() if hasattr(t, "to_local") else t for n, t in tensors.items()}


def told(record: adk.GradientStatistics, expected: Expected | None = None) -> dict[str, Any]:
    """Errors, and what must be the same bits on every rank."""
    expected = expected or Expected.of(network(), *data())
    scalars = (record.mean_sq_norm, record.sum_sq_norms, record.sum_sq_inner_products)
    bits = [record.batch_size, *(None if s is None else s.hex() for s in scalars)]
    parts = {"variance": whole(record.variance), "mean_gradient": whole(record.mean_gradient)}
    plain = adk.GradientStatistics(
        record.batch_size,
        record.mean_sq_norm,
        record.sum_sq_norms,
        sum_sq_inner_products=record.sum_sq_inner_products,
        sq_norms=record.sq_norms,
        inner_products=record.inner_products,
        spread=record.spread,
        **parts,
    )
    signal = sum(float(g.double().square().sum()) for g in parts["mean_gradient"].values())
    return {
        "errors": expected.errors(plain),
        "bits": bits,
        "signal": abs(record.mean_sq_norm / signal - 1.0),
    }


def measured(
    model: Any,
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int = 2,
    scale: float = 1.0,
    exact: bool = True,
    by: float | None = None,
    expected: Expected | None = None,
    compiled: Any = None,
    **settings: Any,
) -> dict[str, Any]:
    by = float(dist.get_world_size()) if by is None else by
    with adk.layer_statistics(model, variance=True, **settings) as recorder:
        for _ in range(steps):
            model.zero_grad()
            (weighted(compiled or model, inputs, targets, by=by) * scale).backward()
            losses = own_losses(model, inputs, targets)
            record = recorder.statistics(losses, exact=exact, grad_scale=scale)
    return told(record, expected)
