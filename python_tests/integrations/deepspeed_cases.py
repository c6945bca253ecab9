"""DeepSpeed's engine with a batch that grows, as docs/guide/trainers.md says; run on every rank."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

# Else it looks for an accelerator, and says that it found none.
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks, pool

MICRO, BUDGET = 4, 400
RATE, MOMENTUM = 0.1, 0.5
# It would compile a collective of its own for each process.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(160, 12, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] + inputs[:, 1] > 0).long())


def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = torch.nn.Linear(12, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)
        return torch.nn.Sequential(*layers)


def by_gradients() -> adk.BatchController:
    return _controller(adk.NormTest(eta=0.6), batch_size=8, growth_cap=1.5)


def by_schedule() -> adk.BatchController:
    return _controller(adk.megatron_schedule("0:16 64:32 192:48"))


def _controller(criterion: Any, **how: Any) -> adk.BatchController:
    return adk.BatchController(criterion, max_batch_size=64, round_to=8, **how)


def draws(unit: int) -> adk.AdaptiveBatchSampler:
    return adk.AdaptiveBatchSampler(dataset(), unit, seed=5, total_samples=BUDGET)


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    world = {"RANK": dist.get_rank(), "LOCAL_RANK": dist.get_rank()}
    world["WORLD_SIZE"] = dist.get_world_size()
    os.environ.update({name: str(value) for name, value in world.items()})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def schedule(optimizer: torch.optim.Optimizer) -> adk.SamplesLR:
    falls = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda unit: 1 - 8 * unit / BUDGET)
    return adk.SamplesLR(falls, samples_per_step=8)


def _engine(stage: int) -> tuple[Any, adk.SamplesLR]:
    model = network()
    settings = {
        "train_micro_batch_size_per_gpu": MICRO,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)[0]
    return engine, schedule(optimizer)


def _run(
    stage: int,
    controller: adk.BatchController,
    *,
    stop: int = BUDGET,
    save: str = "",
    load: str = "",
) -> dict[str, Any]:
    """Trains until so many samples are seen; from a checkpoint where one is named."""
    with _environment():
        engine, rate = _engine(stage)
        unit = engine.train_micro_batch_size_per_gpu() * engine.dp_world_size
        sampler = draws(unit)
        if load:
            _, state = engine.load_checkpoint(load)
            controller.load_state_dict(state["controller"])
            sampler.load_state_dict(state["sampler"])
            rate.load_state_dict(state["rate"])
        sizes = []
        for size in _steps(engine, controller, sampler, stop):
            rate.step(size)
            sizes.append(size)
        if save:
            state = {"controller": controller.state_dict(), "rate": rate.state_dict()}
            state["sampler"] = sampler.state_dict(consumed=controller.samples_seen)
            engine.save_checkpoint(save, client_state=state)
        with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
            weights = torch.cat([p.detach().flatten() for p in engine.module.parameters()])
    return {
        "sizes": sizes,
        "weights": weights.clone(),
        "counted": (engine.global_steps, engine.global_samples, controller.samples_seen),
    }


def _steps(
    engine: Any, controller: adk.BatchController, sampler: adk.AdaptiveBatchSampler, stop: int
) -> Iterator[int]:
    """The size of each step. A controller that reads no gradients needs no context."""
    parts = iter(DataLoader(dataset(), batch_sampler=sampler))
    ranks, measures = Ranks(), controller.wants_test()
    settings: dict[str, Any] = {"ranks": "local", "when": controller.wants_test}
    context = adk.layer_statistics(engine.module, **settings) if measures else nullcontext()
    with context as recorder:
        while controller.samples_seen + controller.batch_size <= stop:
            size = controller.batch_size
            engine.set_train_batch_size(size)
            for _ in range(engine.gradient_accumulation_steps()):
                inputs, targets = next(parts)
                engine.backward(cross_entropy(engine(inputs), targets))
            own = None if recorder is None else recorder.statistics()
            engine.step()
            controller.update(None if own is None else pool(own, ranks), size)
            yield size


def measured_without_shards() -> dict[str, Any]:
    return _run(0, by_gradients())


def measured_with_sharded_states() -> dict[str, Any]:
    return _run(1, by_gradients())


def scheduled_with_sharded_states() -> dict[str, Any]:
    return _run(1, by_schedule())


def scheduled_with_sharded_gradients() -> dict[str, Any]:
    return _run(2, by_schedule())


def scheduled_with_sharded_parameters() -> dict[str, Any]:
    return _run(3, by_schedule())


def measured_with_sharded_gradients() -> str:
    return _said(lambda: _run(2, by_gradients()))


def measured_with_sharded_parameters() -> str:
    return _said(lambda: _run(3, by_gradients()))


def resumed() -> dict[str, list[dict[str, Any]]]:
    """A run, its first steps behind which it saves, and the rest of it."""
    return {
        "measured without shards": _resumed(0, by_gradients),
        "measured with sharded states": _resumed(1, by_gradients),
        "scheduled with sharded gradients": _resumed(2, by_schedule),
    }


def _resumed(stage: int, controller: Callable[[], adk.BatchController]) -> list[dict[str, Any]]:
    with _shared_folder() as folder:
        stopped = _run(stage, controller(), stop=120, save=folder)
        return [_run(stage, controller()), stopped, _run(stage, controller(), load=folder)]


@contextmanager
def _shared_folder() -> Iterator[str]:
    """The first rank's, on all."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [folder]
        dist.broadcast_object_list(folders)
        yield folders[0]
        dist.barrier()


def _said(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


CASES = [
    measured_without_shards,
    measured_with_sharded_states,
    scheduled_with_sharded_states,
    scheduled_with_sharded_gradients,
    scheduled_with_sharded_parameters,
    measured_with_sharded_gradients,
    measured_with_sharded_parameters,
    resumed,
]
