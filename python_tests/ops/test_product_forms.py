"""The choice among equivalent forms of a linear layer's moments, by sizes alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from adadagrad_kernels import use_backend
from adadagrad_kernels.backends import cpu, cpu_products
from adadagrad_kernels.backends.cpu_product_forms import linear_form, products_by_gram
from adadagrad_kernels.ops import linear_moments


@pytest.mark.parametrize("asked", [(False, False), (True, False), (False, True), (True, True)])
def test_one_position_is_rank_one(asked: tuple[bool, bool]) -> None:
    assert linear_form(1, 30, 40, *asked) == "rank one"


def test_only_norms_of_few_positions_take_the_gram_form() -> None:
    assert linear_form(2, 512, 512, False, False) == "gram"
    assert linear_form(128, 512, 512, False, False) == "tiles"
    assert linear_form(2, 512, 512, True, False) == "tiles"
    assert linear_form(2, 512, 512, False, True) == "tiles"
    assert linear_form(8, 4, 4, False, False) == "tiles"


def test_products_of_pairs_where_samples_are_few() -> None:
    assert products_by_gram(512, 2048, 2048)
    assert not products_by_gram(2048, 2048, 2048)
    assert not products_by_gram(512, 2048, 10)


def _ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    times: list[float] = []
    for call in (one, other):
        call()
    for _ in range(9):
        start = time.perf_counter()
        one()
        middle = time.perf_counter()
        other()
        times.append((middle - start) / (time.perf_counter() - middle))
    return statistics.median(times)


@pytest.mark.slow
@pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
@pytest.mark.parametrize("shape", [(128, 2, 768, 768), (64, 48, 256, 256)])
def test_the_chosen_form_is_not_the_slower(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int, int]
) -> None:
    samples, positions, inputs, outputs = shape
    x, y = torch.randn(samples, positions, inputs), torch.randn(samples, positions, outputs)
    chosen = linear_form(positions, inputs, outputs, False, False)
    rejected = {"gram": "tiles", "tiles": "gram"}[chosen]

    def run(form: str) -> Callable[[], object]:
        def call() -> object:
            with monkeypatch.context() as patch, use_backend("cpu"):
                patch.setattr(cpu_products, "linear_form", lambda *sizes: form)
                return linear_moments(x, y)

        return call

    assert _ratio(run(chosen), run(rejected)) < 1.3
