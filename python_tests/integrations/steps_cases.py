"""What every rank of a world runs: loops of Accelerate and of Fabric, one case after another."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import adadagrad_kernels as adk

SAMPLES = 250  # of 90
MICRO = 4


def world() -> int:
    """The number of processes; told to the libraries as a launcher does."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if size > 1:
        os.environ.update(LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29400", ACCELERATE_USE_CPU="1")
        os.environ.update(NODE_RANK="0", GROUP_RANK="0", TORCHELASTIC_RUN_ID="tests")
    return size


def buckets_stay() -> bool:
    """Whether the wrapper keeps its first layout, so that a run goes on bit for bit.

    On more than two ranks the sums depend on it. Two ranks run with what a user gets.
    """
    return dist.get_world_size() > 2


def folder() -> str:
    """A new one, of all ranks."""
    found = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(found)
    return found[0]


def data() -> TensorDataset:
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(90, 6, generator=draw, dtype=torch.float64)
    targets = (inputs.sum(1) + torch.randn(90, generator=draw) > 0).long()
    return TensorDataset(inputs, targets, torch.arange(90))


def build(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)
    return nn.Sequential(*layers).double()


def controller(criterion: Any = None) -> adk.BatchController:
    criterion = criterion or adk.NormTest(eta=0.4)
    return adk.BatchController(criterion, batch_size=8, max_batch_size=64, growth_cap=1.5)


def scheduled(optimizer: Any) -> adk.SamplesLR:
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=30)
    return adk.SamplesLR(linear, samples_per_step=8)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Accelerated:
    """A loop of Accelerate, and its checkpoints."""

    def __init__(
        self, dropout: float = 0.0, criterion: Any = None, *, wrapped: bool = True, **options: Any
    ) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs

        from adadagrad_kernels.integrations.accelerate import adaptive_steps

        wrapper = DistributedDataParallelKwargs(find_unused_parameters=buckets_stay())
        self.accelerator = Accelerator(cpu=True, kwargs_handlers=[wrapper])
        self.inside = build(dropout)
        optimizer = torch.optim.SGD(self.inside.parameters(), lr=0.5)
        self.model, self.optimizer = self.accelerator.prepare(self.inside, optimizer)
        self.model = self.model if wrapped else self.inside
        options = {"scheduler": scheduled(optimizer), "optimizer": self.optimizer, **options}
        self.steps = adaptive_steps(
            self.accelerator,
            self.model,
            data(),
            options.pop("decides", None) or controller(criterion),
            micro_batch_size=options.pop("micro_batch_size", MICRO),
            samples=SAMPLES,
            seed=5,
            **options,
        )
        self.accelerator.register_for_checkpointing(self.steps)

    def clip(self) -> None:
        self.accelerator.clip_grad_norm_(self.model.parameters(), 0.05)

    def mean(self, loss: Tensor) -> float:
        return float(self.accelerator.reduce(loss, "mean"))

    def save(self, path: str) -> None:
        self.accelerator.save_state(path)

    def load(self, path: str) -> None:
        self.accelerator.load_state(path)


class Fabricated:
    """A loop of Fabric, and its checkpoints."""

    def __init__(
        self, dropout: float = 0.0, criterion: Any = None, *, wrapped: bool = True, **options: Any
    ) -> None:
        from lightning.fabric import Fabric
        from lightning.fabric.plugins.environments import TorchElasticEnvironment

        from adadagrad_kernels.integrations.fabric import adaptive_steps

        size, plugins, strategy = world(), [], "auto"
        if size > 1 and wrapped:
            plugins = [TorchElasticEnvironment()]
            strategy = "ddp_find_unused_parameters_true" if buckets_stay() else "ddp"
        devices = size if wrapped else 1
        self.fabric = Fabric(accelerator="cpu", devices=devices, strategy=strategy, plugins=plugins)
        self.fabric.launch()
        self.inside = build(dropout)
        optimizer = torch.optim.SGD(self.inside.parameters(), lr=0.5)
        self.model, self.optimizer = self.fabric.setup(self.inside, optimizer)
        options = {"scheduler": scheduled(optimizer), "optimizer": self.optimizer, **options}
        self.steps = adaptive_steps(
            self.fabric,
            self.model,
            data(),
            options.pop("decides", None) or controller(criterion),
            micro_batch_size=options.pop("micro_batch_size", MICRO),
            samples=SAMPLES,
            seed=5,
            **options,
        )

    def clip(self) -> None:
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=0.05)

    def mean(self, loss: Tensor) -> float:
        return float(self.fabric.all_reduce(loss, reduce_op="mean"))

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "steps": self.steps}

    def save(self, path: str) -> None:
        self.fabric.save(f"{path}/checkpoint.pt", self.state)

    def load(self, path: str) -> None:
        self.fabric.load(f"{path}/checkpoint.pt", self.state)


Loop = Callable[..., Any]


def run(loop: Any, *, stop: int | None = None, save: str = "") -> dict[str, Any]:
    """Trains to the end, or leaves in the third step, behind a checkpoint."""
    sizes, losses, rates, drawn, left = [], [], [], [], []
    for step in loop.steps:
        for inputs, targets, index in step:
            step.backward(cross_entropy(loop.model(inputs), targets))
            drawn += index.tolist()
        loop.clip()
        rates.append(loop.optimizer.param_groups[0]["lr"])
        loop.optimizer.step()
        loop.optimizer.zero_grad()
        sizes.append(step.samples)
        losses.append(loop.mean(step.loss))
        left.append(loop.steps.steps_left())
        with torch.no_grad():  # an evaluation
            loop.inside(torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator()))
        if loop.steps.controller.steps == stop:
            loop.save(save)
            break
    return {
        "weights": weights(loop.inside),
        "sizes": sizes,
        "losses": losses,
        "rates": rates,
        "drawn": drawn,
        "left": left,
        "metrics": step.metrics(),
        "epoch": loop.steps.epoch,
    }


def trains(loop: Loop) -> dict[str, Any]:
    world()
    return run(loop())


def resumes(loop: Loop) -> tuple[dict[str, Any], ...]:
    """With dropout and workers, in a new process as it were."""
    world()
    options: dict[str, Any] = {"dropout": 0.2, "num_workers": 2}
    whole = run(loop(**options))
    out = folder()
    stopped = run(loop(**options), stop=3, save=out)
    again = loop(**options)
    again.load(out)
    return whole, stopped, run(again)


def in_micro_batches(loop: Loop) -> dict[str, Any]:
    world()
    return run(loop(statistics="micro_batches"))


def inner_products(loop: Loop) -> dict[str, Any]:
    """Several micro-batches, whose samples run again."""
    world()
    built: list[Any] = []

    def losses(part: Any) -> Tensor:
        return cross_entropy(built[0].inside(part[0]), part[1], reduction="none")

    built.append(loop(criterion=adk.InnerProductTest(theta=0.35), losses=losses))
    return run(built[0])


def not_a_number(loop: Loop) -> Any:
    """From the last rank, in the third step: an error, or a record by which the size stays."""
    world()

    def spoilt(**options: Any) -> Any:
        one = loop(**options)

        def spoil(_: nn.Module, __: Any, outputs: Tensor) -> Tensor:
            is_last = dist.get_rank() == dist.get_world_size() - 1
            return outputs * torch.nan if is_last and one.steps.controller.steps == 2 else outputs

        one.inside.register_forward_hook(spoil)
        return one

    found = []
    for source in ("layers", "micro_batches"):
        one = spoilt(statistics=source)
        said = _said(partial(run, one))
        found.append((said, one.steps.controller.steps, weights(one.inside)))
    one = spoilt(on_nonfinite="record")
    one.clip = lambda: None  # which Fabric refuses
    return found, run(one)["sizes"], one.steps.controller.nonfinite_steps


def each_by_itself(loop: Loop) -> str:
    """A size that nothing measures, and a model that each process would train by itself."""
    decides = adk.BatchController(None, batch_size=8, max_batch_size=8)
    return _said(lambda: loop(wrapped=False, decides=decides)) if world() > 1 else ""


def refused(loop: Loop) -> dict[str, str]:
    """What the loop says of wrong use, in one process."""
    if world() > 1:
        return {}

    def without_backward() -> None:
        for step in loop().steps:
            for _ in step:
                pass

    def leaves_a_step() -> None:
        for step in loop().steps:
            for inputs, targets, _ in step:
                step.backward(cross_entropy(step_model(inputs), targets))
                break

    def backward_twice() -> None:
        one = loop()
        for step in one.steps:
            for inputs, targets, _ in step:
                loss = cross_entropy(one.model(inputs), targets)
                step.backward(loss)
                step.backward(loss)

    def no_mean() -> None:
        one = loop()
        for step in one.steps:
            for inputs, targets, _ in step:
                step.backward(cross_entropy(one.model(inputs), targets, reduction="none"))

    step_model = build()

    def steps_counted() -> None:
        optimizer = torch.optim.SGD(build().parameters(), lr=0.1)
        loop(scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 3))

    def another_criterion() -> None:
        one = loop(criterion=adk.NormTest(eta=0.7))
        state = loop().steps.state_dict()
        try:
            one.steps.load_state_dict(state)
        finally:
            assert one.steps.controller.samples_seen == 0

    def another_scheduler() -> None:
        loop(scheduler=None).steps.load_state_dict(loop().steps.state_dict())

    def another_optimizer() -> None:
        another = torch.optim.Adam(build().parameters())
        loop(optimizer=another).steps.load_state_dict(loop().steps.state_dict())

    def another_model() -> None:
        state = loop().steps.state_dict()
        other = {**state["model"], "class": "Bert"}
        loop().steps.load_state_dict({**state, "model": other})

    cases = (
        without_backward,
        leaves_a_step,
        backward_twice,
        no_mean,
        steps_counted,
        another_criterion,
        another_scheduler,
        another_optimizer,
        another_model,
    )
    return {case.__name__: _said(case) for case in cases}


def single_samples(loop: Loop) -> str:
    """Micro-batches of one sample, of ranks with unequal shares."""
    world()
    return _said(lambda: loop(micro_batch_size=1))


def _said(action: Any) -> str:
    """The error that an action ends with."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def _case(name: str, what: Callable[[Loop], Any], loop: Loop) -> Callable[[], Any]:
    def case() -> Any:
        # Four processes run as little as says something.
        if dist.get_world_size() == 4 and what not in (trains, resumes):
            return None
        return what(loop)

    case.__name__ = f"{name}_{what.__name__}"
    return case


_LOOPS = {"accelerate": Accelerated, "fabric": Fabricated}
_INSTALLED = {"accelerate": "accelerate", "fabric": "lightning"}
#: What the cases import, for the process that the ranks are forks of.
SHARED = [name for name in ("accelerate", "lightning.fabric")
          if importlib.util.find_spec(name.partition(".")[0])]  # fmt: skip
CASES = [
    _case(name, what, loop)
    for name, loop in _LOOPS.items()
    if importlib.util.find_spec(_INSTALLED[name])
    for what in (
        *(trains, resumes, in_micro_batches, inner_products, single_samples),
        *(not_a_number, each_by_itself, refused),
    )
]
