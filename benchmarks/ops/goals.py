"""Every op's goals: beside a read of its input, torch's expressions and torch's optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from adadagrad_kernels import _native, ops, optim
from benchmarks.measuring import interleaved
from benchmarks.measuring.experiment import Calls, Experiment, Goal, Settings
from benchmarks.ops import peers

LR = 1e-3


class Memory:
    """One block of memory that every experiment views as a G of its own number of rows."""

    def __init__(self, size: int) -> None:
        self.block = torch.rand(size // 4).sub_(0.4)

    def grads(self, rows: int, *, aliased: bool = False) -> Tensor:
        """``[rows, features]``; rows are a multiple of a page apart only where ``aliased``."""
        features = self.block.numel() // rows
        features = features // 1024 * 1024 if aliased else features - 24 - features % 8
        return self.block[: rows * features].view(rows, features)


def experiments(settings: Settings) -> Iterator[Experiment]:
    """All of them, in the order of the table."""
    memory = Memory(settings.size)
    rows = (64, 512, 4096) if settings.quick else (8, 64, 512, 2048, 4096)
    for samples in rows:
        yield _over_a_read(memory, samples, settings.threads)
    if not settings.quick:
        yield _over_a_read(memory, 512, settings.threads, aliased=True)
    for samples in (64, 512):
        yield _over_torch(memory, samples, compiled=not settings.quick)
    for samples in (64, 512):
        yield _fused_step(memory, samples)
    yield _one_large_tensor(1 << (23 if settings.quick else 25))
    yield _many_small_tensors()
    yield _growth(memory, settings.threads)
    for samples in (64, 512):
        yield _memory_use(memory, samples)


def _over_a_read(memory: Memory, rows: int, threads: int, aliased: bool = False) -> Experiment:
    """One sweep over G gives all but the inner products; goals as ratios to reading G once."""

    def contenders() -> Calls:
        grads = memory.grads(rows, aliased=aliased)
        read = partial(_native.C.stream_read, grads.data_ptr(), grads.nbytes, threads)
        calls: Calls = {"read": read}
        for variance in (False, True):
            for products in (False, True):
                calls[_asked(variance, products)] = partial(
                    ops.batch_moments, grads, variance=variance, inner_products=products
                )
        return calls

    goals = []
    for products, limit in ((False, 1.2), (True, 1.3 if rows <= 512 else 2.2)):
        for variance in (False, True):
            asked = _asked(variance, products)
            goals.append(Goal(f"{asked} / one read of G", asked, "read", limit))
    title = f"batch_moments, {rows} rows" + (", a multiple of 4 KiB apart" if aliased else "")
    return Experiment(title, contenders, goals)


def _asked(variance: bool, products: bool) -> str:
    return "norms" + " + variance" * variance + " + products" * products


def _over_torch(memory: Memory, rows: int, compiled: bool) -> Experiment:
    """All outputs, beside the best of the eager expressions, and each of them compiled."""

    def contenders() -> Calls:
        grads = memory.grads(rows)
        eager = {name: partial(call, grads) for name, call in peers.EAGER.items()}
        calls: Calls = {
            "ours": partial(ops.batch_moments, grads),
            "eager": eager[interleaved.fastest(eager)],
        }
        if compiled:
            # Blocked is a Python loop, of which the compiler would unroll hundreds of turns.
            torch._dynamo.reset()
            names = ("plain", "by_elements")
            faster = {name: partial(torch.compile(peers.EAGER[name]), grads) for name in names}
            for call in faster.values():
                call()
            calls["compiled"] = faster[interleaved.fastest(faster)]
        return calls

    goals = [Goal("best of eager torch / ours", "eager", "ours", 10.0, at_least=True)]
    if compiled:
        goals.append(Goal("torch.compile / ours", "compiled", "ours", 3.0, at_least=True))
    return Experiment(f"batch_moments, {rows} rows, beside torch", contenders, goals)


def _fused_step(memory: Memory, rows: int) -> Experiment:
    def contenders() -> Calls:
        grads = memory.grads(rows)
        param, state_sum = torch.zeros(grads.shape[1]), torch.ones(grads.shape[1])
        step = partial(ops.batch_adagrad_step_, param, state_sum, grads, lr=LR)
        return {"ours": step, "batch_moments": partial(ops.batch_moments, grads)}

    goal = Goal("step and moments / moments", "ours", "batch_moments", 1.05)
    return Experiment(f"batch_adagrad_step_, {rows} rows", contenders, [goal])


def _one_large_tensor(elements: int) -> Experiment:
    goals = [Goal("ours / torch's fused Adagrad", "ours", "torch", 1.05)]
    title = f"adagrad_step_, one tensor of {elements:,}"
    return Experiment(title, lambda: _updates([elements]), goals)


def _many_small_tensors() -> Experiment:
    goals = [
        Goal("torch's fused Adagrad / op", "torch", "ours", 8.0, at_least=True),
        Goal("torch's fused Adagrad / our optimizer", "torch", "optimizer", 8.0, at_least=True),
    ]
    return Experiment("adagrad_step_, 300 tensors of 1,000", lambda: _updates([1000] * 300), goals)


def _updates(sizes: list[int]) -> Calls:
    """Three ways to update the same parameters with the same gradients."""
    params = [torch.nn.Parameter(torch.randn(n)) for n in sizes]
    for param in params:
        param.grad = torch.randn_like(param)
    grads, sums = [p.grad for p in params], [torch.ones_like(p) for p in params]
    details = [p.detach() for p in params]
    theirs = torch.optim.Adagrad(params, lr=LR, initial_accumulator_value=1.0, fused=True)
    ours = optim.Adagrad(params, lr=LR, initial_accumulator_value=1.0)
    return {
        # As a loop calls it that has no optimizer: in grad mode, on tensors that need no gradient.
        "ours": partial(ops.adagrad_step_, details, grads, sums, lr=LR),
        "optimizer": ours.step,
        "torch": theirs.step,
    }


def _growth(memory: Memory, threads: int) -> Experiment:
    """Time against rows, columns and threads, with all outputs."""

    def contenders() -> Calls:
        def on(threads_: int, grads: Tensor) -> None:
            torch.set_num_threads(threads_)
            ops.batch_moments(grads)
            torch.set_num_threads(threads)

        whole = memory.grads(512)
        features = whole.shape[1] // 2
        half = memory.block[: 512 * features].view(512, features)
        return {
            "512 rows": partial(on, threads, whole),
            "half the rows": partial(on, threads, whole[:256]),
            "half the columns": partial(on, threads, half),
            "one thread": partial(on, 1, whole),
            "two threads": partial(on, 2, whole),
        }

    goals = [
        Goal("twice the rows / once", "512 rows", "half the rows", 2.2),
        Goal("twice the columns / once", "512 rows", "half the columns", 2.2),
        Goal("one thread / two", "one thread", "two threads", 1.8, at_least=True),
    ]
    return Experiment("growth of batch_moments", contenders, goals)


def _memory_use(memory: Memory, rows: int) -> Experiment:
    """Resident memory that a call takes, outputs included, in units of G."""

    def contenders() -> Calls:
        grads = memory.grads(rows)
        return {"ours": partial(ops.batch_moments, grads), "a copy of G": grads.clone}

    # Mean and variance are 2 of G's rows; what the kernels take beside them is to stay in caches.
    goal = Goal("memory of ours / of G", "ours", "a copy of G", 2 / rows + 0.02)
    title = f"memory of batch_moments, {rows} rows"
    return Experiment(title, contenders, [goal], unit="B", meter=interleaved.peak_bytes)
