"""Training steps with statistics against plain ones: time and memory, beside the best peer.

Memory is what torch's allocator gave out at most during a step that begins and ends without
gradients, so it has activations, gradients and statistics in it, but neither parameters nor the
batch, nor the scratch memory of MKL, oneDNN and this package's kernels, which is of the size of
caches. It is read from the profiler, the same number every time: resident memory, which counts the
scratch too, moves by a tenth with what the system's allocator keeps of earlier contenders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

import interleaved
import torch
from goals import Calls, Chosen, Experiment, Goal, Settings
from train_step_models import Case, Training, cnn, gpt, mlp
from train_step_peers import peers
from train_steps import (
    NORMS,
    PRODUCTS,
    QUANTITIES,
    VARIANCE,
    Step,
    check,
    our_step,
    plain_step,
    reference,
)

from adadagrad_kernels.statistics import GradientStatistics

#: Times over a plain step that are aimed at.
MLP_LIMITS = {NORMS: 1.05, VARIANCE: 1.35, PRODUCTS: 1.25}
CNN_LIMITS = {NORMS: 1.15, VARIANCE: 1.20, PRODUCTS: 1.25}
GPT_LIMITS = {NORMS: 1.05, VARIANCE: 1.08, PRODUCTS: 1.20}
MEMORY_LIMIT = 1.1

PLAIN = "plain step"


def experiments(settings: Settings) -> Iterator[Experiment]:
    """Times of every case with each number of threads, then memory."""
    cases = [(mlp(), MLP_LIMITS), (cnn(512), CNN_LIMITS), (gpt(), GPT_LIMITS)]
    threads = [settings.threads]
    if settings.quick:
        cases = [(mlp(128), MLP_LIMITS), (cnn(512), CNN_LIMITS), (gpt(4), GPT_LIMITS)]
    else:
        cases += [(cnn(64), CNN_LIMITS), (cnn(4096), CNN_LIMITS)]
        threads = sorted({1, settings.threads})
    for case, limits in cases:
        for number in threads:
            yield step_times(case, limits, number)
    for case, _ in cases:
        yield step_memory(case)


def step_times(case: Case, limits: dict[str, float], threads: int) -> Experiment:
    """Ours over a plain step, and the fastest peer over ours where there is one."""
    rivalled = [quantity for quantity in QUANTITIES if peers(case, quantity)]

    def contenders() -> Calls:
        calls: Calls = {PLAIN: _checked(case, *_plain(case), None)}
        for quantity in QUANTITIES:
            calls[quantity] = _checked(case, *_ours(case, quantity), quantity)
            if quantity in rivalled:
                calls[_peer(quantity)] = _best_peer(case, quantity, threads)
        return {name: _on(threads, call) for name, call in calls.items()}

    goals = [Goal(f"{q} / {PLAIN}", q, PLAIN, limits[q]) for q in QUANTITIES]
    goals += [Goal(f"best peer / ours: {q}", _peer(q), q, 1.0, at_least=True) for q in rivalled]
    return Experiment(f"train step of {case.title}, {_threads(threads)}", contenders, goals)


def step_memory(case: Case) -> Experiment:
    """Peak memory over a plain step's; the buffer that a variance is, is not counted."""

    def contenders() -> Calls:
        def peak(training: Training, step: Step, discount: float = 0.0) -> float:
            def alone() -> None:
                step()
                training.zero_grad()

            training.zero_grad()
            return interleaved.allocated_bytes(alone) - discount

        calls: Calls = {PLAIN: partial(peak, *_plain(case))}
        for quantity in QUANTITIES:
            training, step = _ours(case, quantity)
            output = sum(p.nbytes for p in training.model.parameters())
            discount = output if quantity == VARIANCE else 0
            calls[quantity] = partial(peak, training, step, discount)
        return calls

    goals = [
        Goal(f"{q}{' less D' * (q == VARIANCE)} / {PLAIN}", q, PLAIN, MEMORY_LIMIT)
        for q in QUANTITIES
    ]
    title = f"memory of a train step of {case.title}"
    return Experiment(title, contenders, goals, unit="B", meter=lambda call: call())


def _plain(case: Case) -> tuple[Training, Step]:
    training = case.build()
    return training, plain_step(training)


def _ours(case: Case, quantity: str) -> tuple[Training, Step]:
    training = case.build()
    return training, our_step(training, quantity)


def _peer(quantity: str) -> str:
    return f"best peer: {quantity}"


def _best_peer(case: Case, quantity: str, threads: int) -> Chosen:
    """The fastest of those that give what they should."""
    steps = {
        name: _on(threads, _checked(case, *make(), quantity))
        for name, make in peers(case, quantity).items()
    }
    name = interleaved.fastest(steps)
    return Chosen(name, steps[name])


def _checked(case: Case, training: Training, step: Step, quantity: str | None) -> Step:
    """``step``, once its results have been compared with those of all samples' gradients."""
    check(step(), training, _reference(case), quantity)
    return step


@cache
def _reference(case: Case) -> GradientStatistics:
    return reference(case)


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
