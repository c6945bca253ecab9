"""Training steps with statistics from the layers beside the plain step: time, memory, launches.

A step's own numbers are looked at first: its ``.grad`` beside the plain step's, and the norms of
some samples beside steps of those samples alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels import use_backend
from adadagrad_kernels.statistics import GradientStatistics, layer_statistics
from benchmarks.gpu.job import Job
from benchmarks.gpu.training_models import Model, mean_loss, models
from benchmarks.measuring.interleaved import ratio, spread

PLAIN, NORMS = "plain", "norms"
QUANTITIES = {NORMS: {}, "variance": {"variance": True},
              "inner products": {"inner_products": True}}  # fmt: skip
#: Rounds, at least these and at most those; the first calls compile and choose algorithms.
FEWEST, MOST, WARM_UP = 3, 20, 2
#: Samples that are also taken alone.
ALONE = 3


@dataclass
class Setting:
    """A model in a precision on a device, and its steps.

    Attributes:
        model: which.
        device: where.
        autocast: whether forward pass and loss run under autocast to bfloat16.
    """

    model: Model
    device: Any
    autocast: bool

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        with torch.device(self.device.name):  # random weights of a large model take a CPU seconds
            self.module: nn.Module = self.model.build()
            self.inputs, self.targets = self.model.batch(self.model.samples)

    @property
    def title(self) -> str:
        """As the tables name it."""
        return f"{self.model.name}, {'bf16 autocast' if self.autocast else 'fp32'}"

    def plain(self, rows: slice = slice(None)) -> None:
        """Forward and backward of the rows, from no gradients."""
        self.module.zero_grad(set_to_none=True)
        kind = torch.device(self.device.name).type
        with torch.autocast(kind, torch.bfloat16) if self.autocast else nullcontext():
            loss = mean_loss(self.module(self.inputs[rows]), self.targets[rows])
        loss.backward()

    def measured(self, recorder: Any) -> GradientStatistics:
        """The same, and the record."""
        self.plain()
        statistics = recorder.statistics()
        assert statistics is not None
        return statistics

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad for n, p in self.module.named_parameters() if p.grad is not None}


def run(job: Job) -> None:
    """Measure every model in both precisions, with the backend ``job.way`` for the ops it has.

    That is what ``auto`` takes: ``Job.hide`` has put others out of the way.

    Raises:
        RuntimeError: where a step raised, or found numbers that are wrong.
    """
    device = job.device()
    if job.way == "reference":
        use_backend("reference")
    elif not job.backends():
        return
    remaining = [
        (model, autocast)
        for autocast in (False, True)
        for model in models(small=job.rehearsed)
        if job.only in model.name
    ]
    wrong = 0
    while remaining:
        if time.monotonic() >= job.deadline:
            for model, autocast in remaining:
                job.keep(left_out=f"{model.name}, {'bf16 autocast' if autocast else 'fp32'}")
            break
        model, autocast = remaining.pop(0)
        until = time.monotonic() + (job.deadline - time.monotonic()) / (len(remaining) + 1)
        wrong += _keep_setting(job, model, autocast, device, until)
        device.free()
    if wrong:
        raise RuntimeError(f"{wrong} steps raised or are wrong")


def _keep_setting(job: Job, model: Model, autocast: bool, device: Any, until: float) -> int:
    """Measure a model's steps and keep them; how many raised or are wrong."""
    case = {"model": model.name, "autocast": autocast, "backend": job.way}
    try:
        setting = Setting(model, device, autocast)
        steps: dict[str, Callable[[], object]] = {PLAIN: setting.plain}
        for _ in range(WARM_UP):
            setting.plain()
    except Exception as error:  # such as a library that is not there, or too little memory
        job.keep(**case, step=PLAIN, failed=_first_line(error))
        return 1
    plain = {name: grad.clone() for name, grad in setting.gradients().items()}
    alone = _norms_alone(setting)
    wrong = 0
    for name, asked in QUANTITIES.items():
        try:
            own = Setting(model, device, autocast)
            recorder = layer_statistics(own.module, **asked).__enter__()
            steps[name] = partial(own.measured, recorder)
            off = _off(own.measured(recorder), own.gradients(), plain, alone)
            own.measured(recorder)
        except Exception as error:
            job.keep(**case, step=name, failed=_first_line(error))
            steps.pop(name, None)
            wrong += 1
            continue
        right = off <= _allowed(autocast)
        job.keep(**case, step=name, right=right, off=off, allowed=_allowed(autocast))
        wrong += not right
    del plain
    _keep_costs(job, case, steps, device, until)
    return wrong


def _norms_alone(setting: Setting) -> list[float]:
    """Squared norms of the first samples' gradients, by steps of each alone."""
    norms = []
    for i in range(ALONE):
        setting.plain(slice(i, i + 1))
        norms.append(sum(float(g.double().square().sum()) for g in setting.gradients().values()))
    return norms


def _off(
    statistics: GradientStatistics,
    found: dict[str, Tensor],
    plain: dict[str, Tensor],
    alone: list[float],
) -> float:
    """The larger of two relative distances: of the gradient, and of some samples' norms."""
    assert found.keys() == plain.keys()
    assert statistics.sq_norms is not None
    far = sum(float((found[n] - plain[n]).double().square().sum()) for n in plain) ** 0.5
    size = sum(float(grad.double().square().sum()) for grad in plain.values()) ** 0.5
    norms = statistics.sq_norms[: len(alone)].sqrt().tolist()
    apart = max(abs(a - b**0.5) / b**0.5 for a, b in zip(norms, alone, strict=True))
    return max(far / size, apart)


def _allowed(autocast: bool) -> float:
    """Of a step's own rounding: in float32 products may be TF32's, under autocast bfloat16's."""
    return 0.05 if autocast else 5e-3


def _keep_costs(
    job: Job, case: dict[str, Any], steps: dict[str, Callable[[], object]], device: Any,
    until: float,
) -> None:  # fmt: skip
    """Memory, launches and waits of every step, then its time, in rounds with the others."""
    for name, step in steps.items():
        counts = device.counts(step)
        job.keep(**case, step=name, peak_bytes=device.peak_bytes(step), launches=counts.launches,
                 waits=counts.waits, where=counts.where)  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    rounds = 0
    while rounds < FEWEST or (rounds < MOST and time.monotonic() < until):
        shift = rounds % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(device.seconds(steps[name], 1, flush=False))
        rounds += 1
    for name, taken in times.items():
        over = {} if name == PLAIN else {"over_plain": ratio(taken, times[PLAIN])}
        job.keep(**case, step=name, seconds=taken, spread=spread(taken), **over)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
