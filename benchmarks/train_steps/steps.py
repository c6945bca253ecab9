"""Training steps as contenders: plain, and with statistics from the layers; how one is checked.

A step is compared with a loop that takes one sample at a time through plain autograd in float32, on
the model's twin without kinks (``kinks.py``). What is timed is the same step of the model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from adadagrad_kernels.statistics import GradientStatistics, layer_statistics
from benchmarks.train_steps.kinks import NoKinks
from benchmarks.train_steps.models import Case, Training

#: What a step is asked for.
NORMS, VARIANCE, PRODUCTS = "norms", "norms + variance", "norms + inner products"
QUANTITIES = (NORMS, VARIANCE, PRODUCTS)

#: Largest relative distance of results in float32, as norms of vectors, from those of the loop.
TOLERANCE = 1e-3

#: Under autocast the loop itself is run so, and its distance from float32 is what rounding does: to
#: the same weights and inputs in the same operations. A step's own may be so many times as large.
SAFETY = 2.0

#: Beyond this the loop's own rounding would hide an error of any size.
MOST_ROUNDING = 0.05


class Measured(NamedTuple):
    """What a step found: of each sample, and of each coordinate by name, summed over samples.

    Attributes:
        sq_norms: |g_i|^2, ``[samples]``.
        sq_sums: sum_i g_i^2 of every coordinate; what a variance is made of.
        inner_products: <g_i, g>, ``[samples]``.
    """

    sq_norms: Tensor
    sq_sums: dict[str, Tensor] | None = None
    inner_products: Tensor | None = None


#: Clears the gradients, runs the model forward and backward; ``.grad`` is there afterwards.
Step = Callable[[], object]

#: Builds the model of a case, and its step.
Maker = Callable[[Case], tuple[Training, Step]]


def plain_step(case: Case) -> tuple[Training, Step]:
    """The step that all others are compared with."""
    training = case.build()

    def step() -> None:
        training.zero_grad()
        training.loss().backward()

    return training, step


def our_step(case: Case, quantity: str) -> tuple[Training, Callable[[], GradientStatistics]]:
    """The same step in ``layer_statistics``, which is around the training, not the step."""
    training = case.build()
    recorder = layer_statistics(
        training.model, variance=quantity == VARIANCE, inner_products=quantity == PRODUCTS
    ).__enter__()

    def step() -> GradientStatistics:
        training.zero_grad()
        training.loss().backward()
        statistics = recorder.statistics()
        assert statistics is not None
        return statistics

    return training, step


def checked(case: Case, make: Maker, quantity: str | None) -> Step:
    """The step of ``case``, once that of its twin was found to be right."""
    training, step = make(replace(case, twin=True))
    check(step(), training, reference(case), quantity)
    del training, step
    return make(case)[1]


class Reference(NamedTuple):
    """Every result of the twin's step by its name, and how far a step's may be from it."""

    values: dict[str, Tensor]
    allowed: dict[str, float]


@lru_cache(maxsize=1)
def reference(case: Case) -> Reference:
    """By one sample at a time, on the twin of ``case`` and in float32.

    Under autocast results may be off by a rounding to bfloat16, which is how a layer's gradient is
    stored, and by ``SAFETY`` times the distance of the loop under autocast from that in float32.
    """
    twin = replace(case, twin=True, autocast=False)
    values = _by_samples(twin)
    sizes = _sizes(values)
    if not case.autocast:
        return Reference(values, {name: TOLERANCE * size for name, size in sizes.items()})
    rounded = _by_samples(replace(twin, autocast=True))
    off = {name: _distance(rounded[name], value) for name, value in values.items()}
    assert off["sq_norms"] <= MOST_ROUNDING * sizes["sq_norms"], (
        f"under autocast the loop's own norms are off by {off['sq_norms'] / sizes['sq_norms']:.1e}"
    )
    unit = torch.finfo(torch.bfloat16).eps
    return Reference(values, {name: unit * sizes[name] + SAFETY * off[name] for name in values})


def check(found: object, training: Training, expected: Reference, quantity: str | None) -> None:
    """Raise ``AssertionError`` unless a step left the mean gradient and found ``quantity``."""
    results = {f".grad of {n}": p.grad for n, p in training.model.named_parameters()}
    wanted = (".grad of ",)
    if quantity is not None:
        measured = _measured(found) if isinstance(found, GradientStatistics) else found
        assert isinstance(measured, Measured)
        results |= {"sq_norms": measured.sq_norms, "inner_products": measured.inner_products}
        results |= {f"sq_sums of {n}": total for n, total in (measured.sq_sums or {}).items()}
        extra = {VARIANCE: "sq_sums of ", PRODUCTS: "inner_products"}.get(quantity, "sq_norms")
        wanted += ("sq_norms", extra)
    sizes = _sizes(expected.values)
    for name, value in expected.values.items():
        if name.startswith(wanted):
            actual = results.get(name)
            assert actual is not None, f"{name} is missing"
            off, allowed = _distance(actual, value), expected.allowed[name]
            assert off <= allowed, (
                f"{name} is off by {off / sizes[name]:.1e}, {allowed / sizes[name]:.1e} is allowed"
            )


@lru_cache(maxsize=1)
def _by_samples(case: Case) -> dict[str, Tensor]:
    """Everything, by plain autograd on one sample at a time; twice, for products with the mean.

    Raises:
        ValueError: if the model has a kink.
    """
    whole = case.build()
    parameters = dict(whole.model.named_parameters())
    samples = range(case.samples)

    def gradients(i: int) -> dict[str, Tensor]:
        rows = slice(i, i + 1)
        one = whole._replace(inputs=whole.inputs[rows], targets=whole.targets[rows])
        with NoKinks():
            loss = one.loss()
        found = torch.autograd.grad(loss, list(parameters.values()))
        return dict(zip(parameters, found, strict=True))

    means = {name: torch.zeros_like(p) for name, p in parameters.items()}
    squares = {name: torch.zeros_like(p) for name, p in parameters.items()}
    norms, products = [], []
    for i in samples:
        grads = gradients(i)
        norms.append(sum(_dot(grad, grad) for grad in grads.values()))
        for name, grad in grads.items():
            means[name].add_(grad, alpha=1 / case.samples)
            squares[name].addcmul_(grad, grad)
    for i in samples:
        products.append(sum(_dot(grad, means[name]) for name, grad in gradients(i).items()))
    return {
        **{f".grad of {name}": mean for name, mean in means.items()},
        **{f"sq_sums of {name}": square for name, square in squares.items()},
        "sq_norms": torch.tensor(norms),
        "inner_products": torch.tensor(products),
    }


def _dot(one: Tensor, other: Tensor) -> float:
    return float(torch.dot(one.flatten(), other.flatten()))


def _measured(statistics: GradientStatistics) -> Measured:
    """The record in the sums that peers give."""
    assert statistics.sq_norms is not None
    sums = None
    if statistics.variance is not None:
        samples, means = statistics.batch_size, statistics.require_mean_gradient()
        sums = {
            name: (samples - 1) * variance + samples * means[name].square()
            for name, variance in statistics.variance.items()
        }
    return Measured(statistics.sq_norms, sums, statistics.inner_products)


def _sizes(values: dict[str, Tensor]) -> dict[str, float]:
    """Norms, but at least a thousandth of the largest of their kind: errors are relative to it."""
    norms = {name: float(value.double().norm()) for name, value in values.items()}
    largest: dict[str, float] = {}
    for name, norm in norms.items():
        kind = name.partition(" of ")[0]
        largest[kind] = max(norm, largest.get(kind, 0.0))
    return {
        name: max(norm, 1e-3 * largest[name.partition(" of ")[0]]) for name, norm in norms.items()
    }


def _distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm())
