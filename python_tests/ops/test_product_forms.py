"""The choice among equivalent forms of a linear layer's moments, by sizes alone."""

from __future__ import annotations

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


def _ratio(one: Callable[[], object], other: Callable[[], object], enough: float) -> float:
    """Of the least processor times on one thread, which other work on the machine hardly changes.

    Rounds go on while the ratio is not below ``enough``, up to some number.
    """
    least = [float("inf"), float("inf")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for round_ in range(60):
            for place, call in enumerate((one, other)):
                start = time.process_time()
                call()
                least[place] = min(least[place], time.process_time() - start)
            if round_ >= 5 and least[0] < enough * least[1]:
                break
    finally:
        torch.set_num_threads(threads)
    return least[0] / least[1]


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

    assert _ratio(run(chosen), run(rejected), enough=1.3) < 1.3
