"""torch.distributed.checkpoint of a run that goes on in a world of another size."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from sharded_models import sharded
from small_models import data, loss, network
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import adadagrad_kernels as adk

Make = Callable[[Any], torch.optim.Optimizer]


def _controller() -> adk.BatchController:
    return adk.BatchController(adk.NormTest(eta=0.9), batch_size=8, max_batch_size=128)


def _steps(model: Any, optimizer: Any, controller: adk.BatchController, count: int) -> None:
    """Every rank has all samples, so that any world takes the same steps."""
    inputs, targets = data()
    with adk.layer_statistics(model, ranks="auto" if sharded_here(model) else "local") as recorder:
        for _ in range(count):
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            record = recorder.statistics()
            optimizer.step()
            ranks = record.batch_size // len(inputs)
            controller._require_all_ranks = lambda *_: None  # one process of several, all alike
            once = adk.GradientStatistics(
                len(inputs), record.mean_sq_norm, record.sum_sq_norms / ranks
            )
            controller.update(once)


def sharded_here(model: Any) -> bool:
    return hasattr(next(model.parameters()), "to_local")


def _state(model: Any, optimizer: Any, controller: adk.BatchController) -> dict[str, Any]:
    of_model, of_optimizer = get_state_dict(model, optimizer)
    # As a text: a checkpoint takes what is nested apart, and asks a new controller for each name.
    text = json.dumps(controller.state_dict())
    return {"model": of_model, "optimizer": of_optimizer, "controller": text}


def _load(model: Any, optimizer: Any, folder: str, **how: Any) -> adk.BatchController:
    controller = _controller()
    state = _state(model, optimizer, controller)
    dcp.load(state, checkpoint_id=folder, **how)
    parts = {"model_state_dict": state["model"], "optim_state_dict": state["optimizer"]}
    set_state_dict(model, optimizer, **parts)
    controller.load_state_dict(json.loads(state["controller"]))
    return controller


def _far(model: Any, alone: Any) -> float:
    pairs = zip(model.parameters(), alone.parameters(), strict=True)
    return max(
        float(((p.full_tensor() if hasattr(p, "to_local") else p) - q).detach().abs().max())
        for p, q in pairs
    )


def _decided(controller: adk.BatchController) -> dict[str, Any]:
    state = controller.state_dict()
    kept = {name: state[name] for name in ("batch_size", "samples_seen", "steps", "changed")}
    return kept | {"exact": state["last_decision"]["batch_size"], **state["gradient"]}


def _goes_on(make: Make) -> Any:
    """Two steps on two ranks, saved; two more on one rank, and on all."""
    alone, controller = network(), _controller()
    theirs = make(alone.parameters())
    _steps(alone, theirs, controller, 4)

    two = dist.new_group([0, 1])
    where = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(where)
    (folder,) = where
    if dist.get_rank() < 2:
        model = sharded(network(), mesh=DeviceMesh.from_group(two, "cpu"))
        ours, before = make(model.parameters()), _controller()
        _steps(model, ours, before, 2)
        dcp.save(_state(model, ours, before), checkpoint_id=folder, process_group=two)
    dist.barrier()

    told: dict[str, Any] = {"expected": _decided(controller)}
    on_one = network()
    optimizer = make(on_one.parameters())
    after = _load(on_one, optimizer, folder, no_dist=True)
    _steps(on_one, optimizer, after, 2)
    told["one"] = _far(on_one, alone), _decided(after)

    model = sharded(network(), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = make(model.parameters())
    after = _load(model, optimizer, folder)
    _steps(model, optimizer, after, 2)
    told["all"] = _far(model, alone), _decided(after)
    return told


def adagrad_goes_on_in_another_world() -> Any:
    return _goes_on(lambda params: adk.Adagrad(params, lr=0.1))


def adagrad_norm_goes_on_in_another_world() -> Any:
    return _goes_on(lambda params: adk.AdagradNorm(params, lr=0.5))


CASES = (adagrad_goes_on_in_another_world, adagrad_norm_goes_on_in_another_world)
