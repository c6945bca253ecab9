"""Estimates over ranks against their formulas: run on every rank by ``support.ranks``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from pooled_cases import weighted
from small_models import SAMPLES, data, loss, network, share
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks, WorkerGradients, micro_batch_cuts


def micro_batch_gradients() -> Any:
    """Against the formula, from the gradients of all micro-batches of all ranks."""
    model = DistributedDataParallel(network())
    matrices = [name for name, p in model.module.named_parameters() if p.dim() == 2]
    source = adk.MicroBatchGradients(model, matrices=matrices)
    inputs, targets = share()
    cuts = micro_batch_cuts(len(inputs), SAMPLES, Ranks(), 2)
    for place, own in enumerate(cuts):
        last = place == len(cuts) - 1
        with (
            contextlib.nullcontext() if last else model.no_sync(),
            source.micro_batch(own.stop - own.start),
        ):
            weighted(model, inputs[own], targets[own]).backward()
    record = source.result()
    world = dist.get_world_size()
    every_input, every_target = data()
    chunks = [
        (every_input[rank::world][own], every_target[rank::world][own])
        for rank in range(world)
        for own in cuts
    ]
    return {
        "estimate": record.variance_norm,
        "direct": _between(chunks),
        "size": record.batch_size,
        "spectral": record.require_spectral(),
        "direct_spectral": _spectral_between(chunks, matrices),
    }


def _between(chunks: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The estimate from the chunks' mean gradients themselves."""
    rows = [torch.cat([g.flatten() for g in found.values()]) for found in _gradients(chunks)]
    sizes = torch.tensor([float(len(inputs)) for inputs, _ in chunks], dtype=torch.float64)
    gradients = torch.stack(rows)
    mean = (sizes[:, None] * gradients).sum(0) / sizes.sum()
    far = (gradients - mean).square().sum(1)
    return float((sizes * far).sum() / (len(chunks) - 1))


def _spectral_between(
    chunks: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Roots of the eigenvalues and singular values, likewise."""
    rows, sizes = _gradients(chunks), [len(inputs) for inputs, _ in chunks]
    found = {}
    for name in names:
        mean = sum(n * row[name] for n, row in zip(sizes, rows, strict=True)) / sum(sizes)
        far = [row[name] - mean for row in rows]
        far = [each if len(mean) <= mean.shape[1] else each.t() for each in far]
        covariance = sum(n * each @ each.t() for n, each in zip(sizes, far, strict=True))
        roots = torch.linalg.eigvalsh(covariance / (len(chunks) - 1)).clamp_min(0).sqrt()
        found[name] = (float(roots.sum()), float(torch.linalg.svdvals(mean).sum()))
    return found


def _gradients(chunks: Sequence[tuple[Tensor, Tensor]]) -> list[dict[str, Tensor]]:
    """The mean gradient of each chunk."""
    found = []
    for inputs, targets in chunks:
        model = network()
        loss(model(inputs), targets).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    return found


def worker_gradients() -> Any:
    """Unequal shares, each of two micro-batches."""
    model = DistributedDataParallel(network())
    inputs, targets = data(SAMPLES + 1)
    world, rank = dist.get_world_size(), dist.get_rank()
    own_inputs, own_targets = inputs[rank::world], targets[rank::world]
    source = WorkerGradients(model)
    with model.no_sync(), source.backward(samples=2):
        weighted(model, own_inputs[:2], own_targets[:2], len(inputs)).backward()
    with source.backward(samples=len(own_inputs) - 2):
        weighted(model, own_inputs[2:], own_targets[2:], len(inputs)).backward()
    record = source.result()
    chunks = [(inputs[r::world], targets[r::world]) for r in range(world)]
    return {"estimate": record.variance_norm, "direct": _between(chunks), "size": record.batch_size}


def halves_of_two_ranks() -> Any:
    """Of two of them alone; more give no halves."""
    model = DistributedDataParallel(network())
    source = WorkerGradients(model)
    inputs, targets = share()
    with source.backward(samples=len(inputs)):
        weighted(model, inputs, targets).backward()
    ours = source.result().halves_cosine
    rows = []
    for rank in range(2):
        alone = network()
        loss(alone(data()[0][rank::2]), data()[1][rank::2]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in alone.parameters()]))
    return ours, float(F.cosine_similarity(rows[0], rows[1], dim=0))


CASES = (micro_batch_gradients, worker_gradients, halves_of_two_ranks)
