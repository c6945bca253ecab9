"""Training steps with statistics against plain ones: time and memory, beside the best peer.

Models as they are in use stand beside plain steps alone; peers are left out there.

Memory is what torch's allocator gave out at most during a step that begins and ends without
gradients, so it has activations, gradients and statistics in it, but neither parameters nor the
batch, nor the scratch memory of MKL, oneDNN and this package's kernels, which is of the size of
caches. It is read from the profiler, the same number every time: resident memory, which counts the
scratch too, moves by a tenth with what the system's allocator keeps of earlier contenders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from benchmarks.measuring import interleaved
from benchmarks.measuring.experiment import Calls, Chosen, Experiment, Goal, Settings
from benchmarks.train_steps.models import Case, Training, cnn, gpt, mlp
from benchmarks.train_steps.peers import peers
from benchmarks.train_steps.real_models import real_models
from benchmarks.train_steps.steps import (
    NORMS,
    PRODUCTS,
    QUANTITIES,
    VARIANCE,
    Maker,
    Step,
    checked,
    our_step,
    plain_step,
)

#: Times over a plain step that are aimed at.
Limits = dict[str, float]
MLP_LIMITS: Limits = {NORMS: 1.03, VARIANCE: 1.38, PRODUCTS: 1.20}
CNN_LIMITS: Limits = {NORMS: 1.05, VARIANCE: 1.08, PRODUCTS: 1.15}
#: Of 64 samples, where the cost of calls counts, and of 4,096.
OTHER_CNN_LIMITS: Limits = {NORMS: 1.15, VARIANCE: 1.20, PRODUCTS: 1.25}
GPT_LIMITS: Limits = {NORMS: 1.05, VARIANCE: 1.07, PRODUCTS: 1.15}
FLOAT32_LIMITS: Limits = {NORMS: 1.05, VARIANCE: 1.08, PRODUCTS: 1.20}
BFLOAT16_LIMITS: Limits = {NORMS: 1.10, VARIANCE: 1.15, PRODUCTS: 1.25}
MEMORY_LIMIT = 1.1

#: Bytes of all samples' contributions to parameters without a rule, or with several uses, that
#: ``layer_statistics`` holds at a time.
CONTRIBUTIONS = 32 << 20

#: Where a step takes the better part of a second.
MOST_ROUNDS = 5

PLAIN = "plain step"


def experiments(settings: Settings) -> Iterator[Experiment]:
    """Times of every case with each number of threads, then memory."""
    threads = [settings.threads] if settings.quick else sorted({1, settings.threads})
    found = list(cases(quick=settings.quick))
    for case, limits in found:
        for number in threads:
            yield step_times(case, limits, number)
    for case, _ in found:
        yield step_memory(case)


def cases(*, quick: bool) -> Iterator[tuple[Case, Limits]]:
    """Every case and its goals, smaller ones where time is short."""
    yield mlp(128 if quick else 512), MLP_LIMITS
    yield cnn(512), CNN_LIMITS
    yield gpt(4 if quick else 32), GPT_LIMITS
    for samples in () if quick else (64, 4096):
        yield cnn(samples), OTHER_CNN_LIMITS
    for case in real_models(quick=quick):
        yield case, FLOAT32_LIMITS
        yield replace(case, autocast=True), BFLOAT16_LIMITS


def step_times(case: Case, limits: Limits, threads: int) -> Experiment:
    """Ours over a plain step, and the fastest peer over ours where there is one."""
    rivalled = [quantity for quantity in QUANTITIES if peers(case, quantity)]

    def contenders() -> Calls:
        calls: Calls = {PLAIN: checked(case, plain_step, None)}
        for quantity in QUANTITIES:
            calls[quantity] = checked(case, _ours(quantity), quantity)
            if quantity in rivalled:
                calls[_peer(quantity)] = _best_peer(case, quantity, threads)
        return {name: _on(threads, call) for name, call in calls.items()}

    goals = [Goal(f"{q} / {PLAIN}", q, PLAIN, limits[q]) for q in QUANTITIES]
    goals += [Goal(f"best peer / ours: {q}", _peer(q), q, 1.0, at_least=True) for q in rivalled]
    return Experiment(
        f"train step of {case.title}, {_threads(threads)}", contenders, goals,
        most_rounds=MOST_ROUNDS if case.long else None, missing=case.missing,
    )  # fmt: skip


def step_memory(case: Case) -> Experiment:
    """Peak memory over a plain step's, less what the rows' names say.

    D is the variance, an output as large as the parameters; C is ``CONTRIBUTIONS``, where some
    parameters are measured by them.
    """
    chunk = CONTRIBUTIONS if case.contributions else 0

    def contenders() -> Calls:
        def peak(training: Training, step: Step, discount: float = 0.0) -> float:
            def alone() -> None:
                step()
                training.zero_grad()

            training.zero_grad()
            return max(0.0, interleaved.allocated_bytes(alone) - discount)

        calls: Calls = {PLAIN: partial(peak, *plain_step(case))}
        for quantity in QUANTITIES:
            training, step = our_step(case, quantity)
            output = sum(p.nbytes for p in training.model.parameters())
            discount = chunk + (output if quantity == VARIANCE else 0)
            calls[quantity] = partial(peak, training, step, discount)
        return calls

    def less(quantity: str) -> str:
        parts = ["C"] * case.contributions + ["D"] * (quantity == VARIANCE)
        return " less " * bool(parts) + " and ".join(parts)

    goals = [Goal(f"{q}{less(q)} / {PLAIN}", q, PLAIN, MEMORY_LIMIT) for q in QUANTITIES]
    title = f"memory of a train step of {case.title}"
    title += " (C: 32 MiB of contributions)" * case.contributions
    return Experiment(
        title, contenders, goals, unit="B", meter=lambda call: call(), missing=case.missing
    )


def _ours(quantity: str) -> Maker:
    return lambda case: our_step(case, quantity)


def _peer(quantity: str) -> str:
    return f"best peer: {quantity}"


def _best_peer(case: Case, quantity: str, threads: int) -> Chosen:
    """The fastest of those that give what they should."""
    steps = {
        name: _on(threads, checked(case, make, quantity))
        for name, make in peers(case, quantity).items()
    }
    name = interleaved.fastest(steps)
    return Chosen(name, steps[name])


def _on(threads: int, call: Callable[[], object]) -> Callable[[], object]:
    def limited() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            call()
        finally:
            torch.set_num_threads(before)

    return Chosen(call.name, limited) if isinstance(call, Chosen) else limited


def _threads(number: int) -> str:
    return f"{number} thread" + "s" * (number > 1)
