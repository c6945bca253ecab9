"""Training steps as contenders: plain, and with statistics from the layers; how one is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from train_step_models import Case, Training, mean_loss

from adadagrad_kernels.statistics import (
    GradientStatistics,
    PerSampleGradients,
    layer_statistics,
)

#: What a step is asked for.
NORMS, VARIANCE, PRODUCTS = "norms", "norms + variance", "norms + inner products"
QUANTITIES = (NORMS, VARIANCE, PRODUCTS)

#: Largest relative distance of results, as norms of vectors, from those of per-sample gradients.
TOLERANCE = 1e-3


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


def plain_step(training: Training) -> Step:
    """The step that all others are compared with."""

    def step() -> None:
        training.zero_grad()
        training.loss().backward()

    return step


def our_step(training: Training, quantity: str) -> Callable[[], GradientStatistics]:
    """The same step in ``layer_statistics``, which is around the training, not the step."""
    recorder = layer_statistics(
        training.model, variance=quantity == VARIANCE, inner_products=quantity == PRODUCTS
    ).__enter__()

    def step() -> GradientStatistics:
        training.zero_grad()
        training.loss().backward()
        statistics = recorder.statistics()
        assert statistics is not None
        return statistics

    return step


def reference(case: Case) -> GradientStatistics:
    """Everything, by the gradients of all samples."""
    model, inputs, targets = case.build()
    source = PerSampleGradients(model, mean_loss, variance=True, inner_products=True)
    return source.backward(inputs, targets)


def check(
    found: object, training: Training, expected: GradientStatistics, quantity: str | None
) -> None:
    """Raise ``AssertionError`` unless a step left the mean gradient and found ``quantity``."""
    means = expected.require_mean_gradient()
    for name, parameter in training.model.named_parameters():
        scale = max(float(mean.norm()) for mean in means.values())
        _require_close(f".grad of {name}", parameter.grad, means[name], scale)
    if quantity is None:
        return
    measured = _measured(found) if isinstance(found, GradientStatistics) else found
    assert isinstance(measured, Measured)
    _require_close("sq_norms", measured.sq_norms, expected.sq_norms)
    if quantity == VARIANCE:
        sums = _measured(expected).sq_sums
        assert sums is not None
        assert measured.sq_sums is not None, "sq_sums are missing"
        scale = max(float(total.norm()) for total in sums.values())
        for name, total in sums.items():
            _require_close(f"sq_sums of {name}", measured.sq_sums[name], total, scale)
    if quantity == PRODUCTS:
        _require_close("inner_products", measured.inner_products, expected.inner_products)


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


def _require_close(
    name: str, actual: Tensor | None, expected: Tensor | None, scale: float = 0.0
) -> None:
    """Relative to the expected norm, or to a thousandth of ``scale`` where that is larger."""
    assert actual is not None, f"{name} is missing"
    assert expected is not None
    off = float((actual.double() - expected.double()).norm())
    size = max(float(expected.double().norm()), 1e-3 * scale)
    assert off <= TOLERANCE * size, f"{name} is off by {off / size:.1e}"
