"""StatisticsAccumulator: the record of micro-batches is that of the batch."""

from __future__ import annotations

import pytest
import torch
from support import sample_models
from support.sample_loop import SampleLoop
from torch import Tensor
from torch.utils._pytree import tree_map

from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.statistics import (
    GradientStatistics,
    PerSampleGradients,
    StatisticsAccumulator,
)


@pytest.mark.parametrize("sizes", [[7], [3, 4], [1, 5, 1], [1] * 7], ids=str)
@pytest.mark.parametrize("name", ["convolution", "tied", "two inputs"])
def test_micro_batches_of_any_sizes(name: str, sizes: list[int]) -> None:
    case = sample_models.make(name)
    case.loss_fn(case.model(case.inputs), case.targets).backward()
    expected = {n: p.grad for n, p in case.model.named_parameters()}
    case.model.zero_grad()
    source = PerSampleGradients(case.model, case.loss_fn, variance=True)
    batches, start = [], 0
    for size in sizes:
        run = slice(start, start + size)
        batches.append(
            tree_map(
                lambda leaf, run=run: leaf[run] if isinstance(leaf, Tensor) else leaf,
                (case.inputs, case.targets),
            )
        )
        start += size
    accumulator = StatisticsAccumulator()
    for inputs, targets in batches:
        accumulator.add(source.backward(inputs, targets, scale=len(targets) / start))
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    loop.check(accumulator.result(), inner_products=False, variance=True)
    statistics = accumulator.result(
        lambda mean: torch.cat([source.directional_derivatives(x, y, mean) for x, y in batches])
    )
    loop.check(statistics, inner_products=True, variance=True)
    found = {n: p.grad for n, p in case.model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_single_record_keeps_its_inner_products() -> None:
    case = sample_models.make("linear")
    source = PerSampleGradients(case.model, case.loss_fn, inner_products=True)
    accumulator = StatisticsAccumulator()
    accumulator.add(source.backward(case.inputs, case.targets))

    def never(mean: dict[str, Tensor]) -> Tensor:
        raise AssertionError("the inner products were there")

    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    loop.check(accumulator.result(never), inner_products=True, variance=False)


def test_what_cannot_be_added_leaves_the_rest() -> None:
    accumulator = StatisticsAccumulator()
    with pytest.raises(ValueError, match="no micro-batch was added"):
        accumulator.result()
    case = sample_models.make("linear")
    source = PerSampleGradients(case.model, case.loss_fn)
    accumulator.add(source.backward(case.inputs, case.targets))
    with pytest.raises(MissingStatisticError, match="mean_gradient"):
        accumulator.add(GradientStatistics(2, 1.0, 3.0))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        accumulator.result(lambda mean: torch.zeros(2))
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    loop.check(accumulator.result(), inner_products=False, variance=False)
