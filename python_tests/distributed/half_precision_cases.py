"""Models of ``fully_shard`` that compute in half precision; run by ``support.ranks``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from sharded_models import measured, sharded, told, weighted
from small_models import network, share
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import adadagrad_kernels as adk


def half_precision() -> Any:
    """In bfloat16, but for the norm; reduced in float32."""
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
    model: Any = network().float()
    fully_shard(model[1], mp_policy=MixedPrecisionPolicy(output_dtype=torch.float32))
    for layer in (model[0], model[3]):
        fully_shard(layer, mp_policy=half)
    inputs, targets = share()
    return measured(fully_shard(model, mp_policy=half), inputs.float(), targets)


def half_precision_to_the_end() -> Any:
    half = MixedPrecisionPolicy(torch.bfloat16)
    inputs, targets = share()
    return measured(sharded(network().float(), mp_policy=half), inputs.float(), targets)


def half_precision_with_a_scaler() -> Any:
    """float16 in a GradScaler's loop, whose scale the record is free of."""
    half = MixedPrecisionPolicy(torch.float16, torch.float32, torch.float32)
    model: Any = sharded(network().float(), mp_policy=half)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    inputs, targets = share()
    by = float(dist.get_world_size())
    with adk.layer_statistics(model, variance=True) as recorder:
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(weighted(model, inputs.float(), targets, by=by)).backward()
            record = recorder.statistics(grad_scale=scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 256.0
    return told(record)


CASES = (half_precision, half_precision_to_the_end, half_precision_with_a_scaler)
