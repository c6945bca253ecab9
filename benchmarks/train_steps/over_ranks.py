"""What pooling over ranks costs: training steps of two processes, each with a thread of its own.

A contender is the same step on every rank. This process tells both which one to take, and waits
until both have: what that takes is some 0.1 ms, the same for all of them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from adadagrad_kernels import use_backend
from adadagrad_kernels.statistics import layer_statistics
from benchmarks.measuring.experiment import Calls, Experiment, Goal, Settings
from benchmarks.train_steps.models import Case, Training, cnn, gpt, mlp
from benchmarks.train_steps.steps import NORMS, PRODUCTS, QUANTITIES, VARIANCE

RANKS = 2
#: Of all ranks' record over one rank's. Norms and inner products gather a few numbers; the variance
#: takes an all_reduce like the gradient's.
LIMITS = {NORMS: 1.02, VARIANCE: 1.25, PRODUCTS: 1.02}
CASES: dict[str, Callable[[], Case]] = {
    "MLP": partial(mlp, 512),
    "CNN": partial(cnn, 512),
    "GPT": partial(gpt, 32),
}
PLAIN = "plain step"

_ROOT = Path(__file__).resolve().parents[2]
#: As ``benchmarks/__main__.py`` finds the folder, and the installed package beside it.
_CODE = """\
import sys
sys.path.insert(0, {root!r})
import benchmarks
sys.path.remove({root!r})
from benchmarks.train_steps.over_ranks import serve
serve({name!r}, {rank}, {store!r})
"""


def experiments(settings: Settings) -> Iterator[Experiment]:
    """Every case, pooled over its record of one rank and over the plain step."""
    for name, make in CASES.items():
        if settings.quick and name != "CNN":
            continue
        goals = [
            Goal(f"{q}: all ranks / one", _pooled(q), _local(q), LIMITS[q]) for q in QUANTITIES
        ]
        title = f"{RANKS} ranks of one thread, train step of {make().title} on each"
        yield Experiment(title, partial(_contenders, name), goals, missing=_missing)


def _missing() -> str | None:
    if not dist.is_gloo_available():
        return "this torch was built without gloo"
    return None


def _pooled(quantity: str) -> str:
    return f"{quantity}, all ranks"


def _local(quantity: str) -> str:
    return f"{quantity}, one rank"


def _contenders(name: str) -> Calls:
    ranks = _Processes(name)
    names = [PLAIN, *(of(q) for q in QUANTITIES for of in (_local, _pooled))]
    return {step: partial(ranks.take, step) for step in names}


class _Processes:
    """The ranks; they end with the last contender."""

    def __init__(self, name: str) -> None:
        folder = tempfile.TemporaryDirectory()
        store = str(Path(folder.name, "store"))
        self._ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # the sources in the folder that this was started in have no kernels
                    "-c",
                    _CODE.format(root=str(_ROOT), name=name, rank=r, store=store),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for r in range(RANKS)
        ]
        weakref.finalize(self, _end, self._ranks, folder)
        self._heard()

    def take(self, step: str) -> None:
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write(f"{step}\n")
            rank.stdin.flush()
        self._heard()

    def _heard(self) -> None:
        for rank in self._ranks:
            assert rank.stdout is not None
            if not rank.stdout.readline():
                raise RuntimeError("a rank has ended; what it printed says why")


def _end(ranks: list[subprocess.Popen[str]], folder: tempfile.TemporaryDirectory[str]) -> None:
    for rank in ranks:
        rank.kill()
        rank.communicate()
    folder.cleanup()


def serve(name: str, rank: int, store: str) -> None:
    """One rank: takes the steps that it reads, until its input ends."""
    use_backend("cpu")  # measures the kernels, or ends where they are missing
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, RANKS), rank=rank, world_size=RANKS)
    # One rank's record: the same step, pooled over a group of its own.
    alone = [dist.new_group([r]) for r in range(RANKS)][rank]
    steps = {PLAIN: _step(CASES[name](), None)}
    for quantity in QUANTITIES:
        steps[_local(quantity)] = _step(CASES[name](), quantity, alone)
        steps[_pooled(quantity)] = _step(CASES[name](), quantity)
    print("ready", flush=True)
    for line in sys.stdin:
        steps[line.rstrip("\n")]()
        print("done", flush=True)


def _step(case: Case, quantity: str | None, ranks: Any = "auto") -> Callable[[], None]:
    training = case.build()
    model = DistributedDataParallel(training.model)
    wrapped = training._replace(model=model)
    if quantity is None:

        def plain() -> None:
            wrapped.zero_grad()
            wrapped.loss().backward()

        return plain
    recorder = layer_statistics(
        model, variance=quantity == VARIANCE, inner_products=quantity == PRODUCTS, ranks=ranks
    ).__enter__()
    again = partial(_sample_losses, training) if quantity == PRODUCTS else None

    def measured() -> None:
        wrapped.zero_grad()
        wrapped.loss().backward()
        recorder.statistics(again)

    return measured


def _sample_losses(training: Training) -> Tensor:
    outputs = training.model(training.inputs)
    tokens = F.cross_entropy(outputs.flatten(0, -2), training.targets.flatten(), reduction="none")
    return tokens.view(len(training.inputs), -1).mean(1)
