"""Parts of a model over ranks, against single samples: run on every rank by ``support.ranks``."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from pooled_cases import told_of, weighted
from small_models import SAMPLES, Expected, data, network, share
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import adadagrad_kernels as adk

#: Names of parameters by their group; the normalisation goes with what is before it.
GROUPS = {
    "first": ("0.weight", "0.bias", "1.weight", "1.bias"),
    "last": ("3.weight", "3.bias"),
}


def _unequal() -> tuple[Tensor, Tensor]:
    """None on the last rank; of four, three on the first."""
    inputs, targets = data()
    cuts = {2: (0, SAMPLES, SAMPLES), 4: (0, 3, 13, SAMPLES, SAMPLES)}[dist.get_world_size()]
    own = slice(cuts[dist.get_rank()], cuts[dist.get_rank() + 1])
    return inputs[own], targets[own]


def _columns(names: Any) -> Expected:
    """The statistics of these parameters alone."""
    whole = Expected.of(network(), *data())
    parts = whole.rows.split([shape.numel() for shape in whole.shapes.values()], 1)
    by_name = dict(zip(whole.shapes, parts, strict=True))
    return Expected(torch.cat([by_name[n] for n in names], 1), {n: whole.shapes[n] for n in names})


def the_normalizations_alone() -> Any:
    """Gradients of all parameters are those of a plain wrapper."""
    model, plain = DistributedDataParallel(network()), DistributedDataParallel(network())
    inputs, targets = _unequal()

    def losses() -> Tensor:
        return F.cross_entropy(model.module(inputs), targets, reduction="none")

    with adk.layer_statistics(model, only=adk.is_normalization, variance=True) as recorder:
        for _ in range(2):
            model.zero_grad()
            for part in (slice(0, 2), slice(2, None)):
                with model.no_sync() if part.start == 0 else contextlib.nullcontext():
                    weighted(model, inputs[part], targets[part]).backward()
            record = recorder.statistics(losses)
    weighted(plain, inputs, targets).backward()
    pairs = zip(model.parameters(), plain.parameters(), strict=True)
    told = told_of(record, _columns(["1.weight", "1.bias"]))
    told["names"] = list(record.mean_gradient), list(record.variance)
    told["errors"][".grad"] = max(float((p.grad - q.grad).abs().max()) for p, q in pairs)
    return told


def _groups(model: nn.Module) -> dict[str, list[Tensor]]:
    parameters = dict(model.named_parameters())
    return {name: [parameters[each] for each in names] for name, names in GROUPS.items()}


def _of_groups(scale: float) -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = _unequal()
    with adk.layer_statistics(model, groups=_groups(model.module)) as recorder:
        for _ in range(2):
            model.zero_grad()
            for part in (slice(0, 2), slice(2, None)):
                with model.no_sync() if part.start == 0 else contextlib.nullcontext():
                    (weighted(model, inputs[part], targets[part]) * scale).backward()
            record = recorder.statistics(grad_scale=scale)
    told = {}
    for name, found in record.require_by_group().items():
        expected = _columns(GROUPS[name]).rows
        told[name] = {
            "N": found.mean_sq_norm / float(expected.mean(0).square().sum()) - 1.0,
            "norms": found.sum_sq_norms / float(expected.square().sum()) - 1.0,
            "samples": found.batch_size,
            "bits": (found.mean_sq_norm.hex(), found.sum_sq_norms.hex()),
        }
    return told


def groups_of_parameters() -> Any:
    return _of_groups(1.0)


def groups_of_parameters_with_a_scaled_loss() -> Any:
    return _of_groups(1024.0)


def groups_that_split_a_layer_on_one_rank() -> Any:
    """The last rank alone has them so: its error goes to the others."""
    model = DistributedDataParallel(network())
    groups = _groups(model.module)
    if dist.get_rank() == dist.get_world_size() - 1:
        groups["last"].append(groups["first"].pop(1))
    with adk.layer_statistics(model, groups=groups) as recorder:
        weighted(model, *share()).backward()
        recorder.statistics()


def _trained(model: nn.Module, recorder_of: Any, shares: Any) -> Any:
    """Passes of 24 samples, each group at the size that its own norms ask for."""
    inside = model.module if isinstance(model, DistributedDataParallel) else model
    groups = [{"params": p, "name": name} for name, p in _groups(inside).items()]
    optimizer = torch.optim.SGD(groups, lr=0.3)
    sizes = {"batch_size": SAMPLES, "max_batch_size": 8 * SAMPLES, "round_to": SAMPLES}
    tests = [adk.NormTest(eta=eta) for eta in (0.9, 0.5)]
    batches = adk.GroupBatches(optimizer, [adk.BatchController(t, **sizes) for t in tests])
    found = []
    with recorder_of(model, groups=batches.groups) as recorder:
        for step in range(12):
            inputs, targets = shares(step)
            optimizer.zero_grad()
            weighted(model, inputs, targets).backward()
            record = recorder.statistics()
            if inside is model:
                # What the wrapper multiplies by, and one process of several, all alike.
                for p in model.parameters():
                    p.grad /= dist.get_world_size()
            found.append((batches.collect(record), batches.batch_sizes))
            optimizer.step()
    return found, inside


def a_batch_for_every_group() -> Any:
    """Groups that are due, sizes and parameters of one process with all samples."""

    def whole(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = data(12 * SAMPLES)
        own = slice(step * SAMPLES, (step + 1) * SAMPLES)
        return inputs[own], targets[own]

    def own(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = whole(step)
        place, world = dist.get_rank(), dist.get_world_size()
        return inputs[place::world], targets[place::world]

    class Alone(adk.layer_statistics):
        """As if no other process were there."""

        def statistics(self, *arguments: Any, **options: Any) -> Any:
            scale = float(dist.get_world_size())
            record = super().statistics(*arguments, grad_scale=scale, **options)
            return replace(record, agreement=None)

    expected, alone = _trained(network(), lambda *a, **k: Alone(*a, ranks="local", **k), whole)
    found, model = _trained(DistributedDataParallel(network()), adk.layer_statistics, own)
    pairs = zip(model.parameters(), alone.parameters(), strict=True)
    far = max(float((p - q).detach().abs().max()) for p, q in pairs)
    return {"found": found, "expected": expected, "far": far}


def dropout_of_shards_by_a_difference() -> Any:
    """Passes of the difference and forward mode draw the same, and generators are put back."""
    from torch.distributed.fsdp import fully_shard

    found = {}
    for exact in (True, False):
        torch.manual_seed(5 + dist.get_rank())
        layers = nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            for layer in (layers[0], layers[2]):
                layer.reset_parameters()
        model = fully_shard(nn.Sequential(*layers).double())
        inputs, targets = share()

        def losses(model: Any = model, inputs: Any = inputs, targets: Any = targets) -> Tensor:
            return F.cross_entropy(model(inputs), targets, reduction="none")

        with adk.layer_statistics(model) as recorder:
            weighted(model, inputs, targets).backward()
            before = torch.get_rng_state()
            record = recorder.statistics(losses, exact=exact)
        found[exact] = record.sum_sq_inner_products
        assert torch.equal(torch.get_rng_state(), before)
    return found[False] / found[True]


CASES = (
    dropout_of_shards_by_a_difference,
    the_normalizations_alone,
    groups_of_parameters,
    groups_of_parameters_with_a_scaled_loss,
    groups_that_split_a_layer_on_one_rank,
    a_batch_for_every_group,
)
