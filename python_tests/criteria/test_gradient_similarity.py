"""GradientSimilarity: steps of a tenth, both cosines, and what is missing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from gradient_rows import observed, record

from adadagrad_kernels import BatchController
from adadagrad_kernels.criteria import GradientSimilarity
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.statistics import GradientStatistics


def measured(cosine: float, size: int = 40) -> GradientStatistics:
    return GradientStatistics(size, 1.0, 2.0 * size, halves_cosine=cosine)


@pytest.mark.parametrize(
    ("size", "below", "above"),
    [(1, 2, 1), (2, 3, 1), (5, 6, 4), (10, 11, 9), (40, 44, 36), (99, 108, 89), (1000, 1100, 900)],
)
def test_a_tenth_more_or_less_and_one_at_least(size: int, below: int, above: int) -> None:
    test = GradientSimilarity(target=0.2)
    grown = test(measured(0.1999, size))
    assert (grown.criterion, grown.batch_size, grown.passed) == (
        "gradient_similarity",
        below,
        False,
    )
    shrunk = test(measured(0.2001, size))
    assert (shrunk.batch_size, shrunk.passed) == (above, True)
    assert (test(measured(0.2, size)).batch_size, test(measured(0.2, size)).passed) == (size, True)


def test_averaged_is_the_mean_over_all_ways_to_halve_the_batch() -> None:
    rows = torch.randn(6, 4, dtype=torch.float64) + 0.3
    products, lengths = 0.0, 0.0
    for chosen in itertools.combinations(range(6), 3):
        first = rows[list(chosen)].mean(0)
        second = rows[[i for i in range(6) if i not in chosen]].mean(0)
        products += (first @ second).item()
        lengths += (first @ first + second @ second).item() / 2
    test = GradientSimilarity(target=0.5, averaged=True)
    assert test.cosine(record(rows)) == pytest.approx(products / lengths, rel=1e-12)
    # Over the six halvings of four micro-batches too, whose variance is that of chunks.
    rows = torch.randn(8, 4, dtype=torch.float64) + 0.3
    means = [part.mean(0) for part in rows.split(2)]
    products, lengths = 0.0, 0.0
    for i, j in itertools.combinations(range(4), 2):
        k, m = (n for n in range(4) if n not in (i, j))
        first, second = means[i] + means[j], means[k] + means[m]
        products += (first @ second).item()
        lengths += (first @ first + second @ second).item() / 2
    statistics = observed(list(rows.split(2)))
    assert test.cosine(statistics) == pytest.approx(products / lengths, rel=1e-11)


def test_two_micro_batches_are_its_two_halves() -> None:
    rows = torch.randn(8, 4, dtype=torch.float64) + 0.3
    first, second = rows[:4].mean(0), rows[4:].mean(0)
    expected = torch.nn.functional.cosine_similarity(first, second, dim=0).item()
    statistics = observed(list(rows.split(4)))
    for target, grows in ((expected + 1e-9, True), (expected - 1e-9, False)):
        assert (GradientSimilarity(target)(statistics).batch_size > 8) == grows
    merged = record(rows[:4]).merge(record(rows[4:]))
    assert GradientSimilarity(0.2).cosine(merged) == pytest.approx(expected, rel=1e-12)


def test_the_controller_shrinks_only_where_it_may() -> None:
    fixed = BatchController(GradientSimilarity(0.2), batch_size=40, max_batch_size=100)
    free = BatchController(
        GradientSimilarity(0.2), batch_size=40, max_batch_size=100, allow_shrink=True
    )
    for controller in (fixed, free):
        assert controller.update(measured(0.1, 40)) == 44
    assert fixed.update(measured(0.3, 44)) == 44
    assert free.update(measured(0.3, 44)) == 40  # 39, and the first size is the floor


def test_where_no_cosine_is_defined_the_size_stays() -> None:
    nothing = GradientStatistics(8, 0.0, 0.0, halves_cosine=math.nan)
    for averaged in (False, True):
        decision = GradientSimilarity(0.2, averaged=averaged)(nothing)
        assert (decision.batch_size, decision.passed) == (8.0, True)
        broken = GradientStatistics(8, math.nan, 1.0, halves_cosine=math.nan)
        assert math.isnan(GradientSimilarity(0.2, averaged=averaged)(broken).batch_size)
    opposite = GradientStatistics(8, 0.0, 8.0)
    assert GradientSimilarity(0.2, averaged=True).cosine(opposite) == -1.0


def test_refusals(batch: GradientStatistics) -> None:
    for target in (-1.0, 1.0, 2.0, math.nan):
        with pytest.raises(ValueError, match="target must be greater than -1 and below 1, got"):
            GradientSimilarity(target)
    with pytest.raises(MissingStatisticError, match=r"MicroBatchGradients.*merge.*averaged=True"):
        GradientSimilarity(0.2)(batch)
    with pytest.raises(ValueError, match="at least two samples"):
        GradientSimilarity(0.2, averaged=True)(GradientStatistics(1, 1.0, 1.0))
