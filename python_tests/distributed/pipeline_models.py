"""Pipelines of torch.distributed.pipelining, and what a loop over single samples gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from small_models import SAMPLES, Expected, data
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn import functional as F

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks

WIDTH = 8


def deep() -> nn.Sequential:
    """Four blocks in float64, with the same parameters on every rank."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        blocks = [nn.Sequential(nn.Linear(6, WIDTH), nn.Tanh())]
        for _ in range(2):
            blocks.append(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh()))
        blocks.append(nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)))
        return nn.Sequential(*blocks).double()


def mesh_of(stages: int) -> DeviceMesh:
    """[data, pipeline] over all ranks."""
    shape = dist.get_world_size() // stages, stages
    return init_device_mesh("cpu", shape, mesh_dim_names=("data", "pipeline"))


def blocks_of(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    """Those of this rank's stage, under their names in the model."""
    stages = mesh["pipeline"].size()
    each = len(model) // stages
    own = mesh.get_local_rank("pipeline")
    return model[own * each : (own + 1) * each]


class Pipeline:
    """A stage on every rank, which is trained and measured.

    Args:
        model: of all stages.
        mesh: of the processes.
        micro_batches: of each step.
        kind: of the schedule.
        wrap: makes the stage's module of its blocks.
        loss: of outputs and targets.
        scale_grads: whether the schedule divides gradients.
    """

    def __init__(
        self,
        model: nn.Sequential,
        mesh: DeviceMesh,
        *,
        micro_batches: int = 4,
        kind: Any = ScheduleGPipe,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        scale_grads: bool = True,
    ) -> None:
        self.group = mesh["pipeline"].get_group()
        self.module = wrap(blocks_of(model, mesh))
        own, stages = mesh.get_local_rank("pipeline"), mesh["pipeline"].size()
        stage = PipelineStage(self.module, own, stages, torch.device("cpu"), group=self.group)
        self.is_first, self.is_last = own == 0, own == stages - 1
        self._schedule = kind(stage, micro_batches, loss_fn=loss, scale_grads=scale_grads)

    @property
    def ranks(self) -> Ranks:
        return Ranks(pipeline=self.group)

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """Forward and backward of all micro-batches; gradients are cleared before."""
        self.module.zero_grad()
        self.go_on(inputs, targets)

    def go_on(self, inputs: Tensor, targets: Tensor) -> None:
        given = (inputs,) if self.is_first else ()
        self._schedule.step(*given, **({"target": targets} if self.is_last else {}))


def told(record: adk.GradientStatistics, expected: Expected | None = None) -> dict[str, Any]:
    """Errors against single samples, and what must be the same bits on every rank.

    The coordinates are those of this rank's stage, under their names in the model.
    """
    expected = expected or Expected.of(deep(), *data())
    widths = [shape.numel() for shape in expected.shapes.values()]
    columns = dict(zip(expected.shapes, expected.rows.split(widths, 1), strict=True))
    mean = expected.rows.mean(0)
    scalars = {
        "batch_size": (float(record.batch_size), float(len(expected.rows))),
        "mean_sq_norm": (record.mean_sq_norm, float(mean.square().sum())),
        "sum_sq_norms": (record.sum_sq_norms, float(expected.rows.square().sum())),
    }
    if record.sum_sq_inner_products is not None:
        products = float((expected.rows @ mean).square().sum())
        scalars["sum_sq_inner_products"] = (record.sum_sq_inner_products, products)
    errors = {name: abs(ours / theirs - 1.0) for name, (ours, theirs) in scalars.items()}
    if record.spread is not None:
        errors["noise_estimate"] = expected.far_spread(record)
    for kind, given in (("mean_gradient", record.mean_gradient), ("variance", record.variance)):
        for name, values in (given or {}).items():
            values = values.full_tensor() if hasattr(values, "to_local") else values
            rows = columns[name]
            wanted = rows.mean(0) if kind == "mean_gradient" else rows.var(0)
            far = torch.linalg.vector_norm(values.flatten() - wanted)
            errors[f"{kind} of {name}"] = float(far / torch.linalg.vector_norm(wanted))
    bits = [record.batch_size, *(ours.hex() for ours, _ in scalars.values())]
    return {"errors": errors, "bits": bits}


def measured(
    pipeline: Pipeline,
    inputs: Tensor | None = None,
    targets: Tensor | None = None,
    *,
    steps: int = 2,
    ranks: Ranks | None = None,
    expected: Expected | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Of the last of some steps; the first one has the stages learn the shapes."""
    if inputs is None or targets is None:
        inputs, targets = data(SAMPLES)
    asked = {"variance": True, "inner_products": True, **settings}
    with adk.layer_statistics(pipeline.module, ranks=ranks or pipeline.ranks, **asked) as recorder:
        for _ in range(steps):
            pipeline.step(inputs, targets)
            record = recorder.statistics()
    return told(record, expected)
