"""The models in use whose training steps are measured, at a size of their own for the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.train_steps.models import Case
from benchmarks.train_steps.real_models import gpt2, llama, no_transformers, resnet18, vit
from benchmarks.train_steps.steps import QUANTITIES, checked, our_step, plain_step

pytestmark = pytest.mark.usefixtures("one_thread")
needs_transformers = pytest.mark.skipif(no_transformers() is not None, reason="no Transformers")

FULL = {"gpt2": gpt2, "llama": llama, "vit": vit, "resnet18": resnet18}
#: A dimension of a head is even, for rotary positions.
SMALL: dict[str, Callable[[], Case]] = {
    "gpt2": partial(gpt2, 3, layers=1, width=24, tokens=6),
    "llama": partial(llama, 3, layers=1, width=32, tokens=6),
    "vit": partial(vit, 3, layers=1, width=12),
    "resnet18": partial(resnet18, 3, blocks=1, width=4),
}
NAMES = [pytest.param(name, marks=[needs_transformers] * (name != "resnet18")) for name in FULL]


@pytest.mark.parametrize("name", NAMES)
def test_the_models_are_those_that_are_named(name: str) -> None:
    with torch.device("meta"):
        model = FULL[name]().model()
    expected = {
        "gpt2": 8192 * 768 + 256 * 768 + 6 * (12 * 768**2 + 13 * 768) + 2 * 768,
        "llama": 2 * 8192 * 512 + 6 * (3 * 512**2 + 3 * 512 * 1376 + 2 * 512) + 512,
        "vit": 6 * (12 * 384**2 + 13 * 384) + (3 * 64 + 1 + 1 + 65 + 2) * 384 + 3850,
        "resnet18": 11_173_962,  # as it is known for images of 32 x 32
    }
    assert sum(p.numel() for p in model.parameters()) == expected[name]
    assert model.training
    assert not any(getattr(module, "p", 0) for module in model.modules()), "no random numbers"


@pytest.mark.parametrize(
    "autocast", [pytest.param(False, marks=pytest.mark.nightly), True], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_right(name: str, autocast: bool) -> None:
    case = replace(SMALL[name](), autocast=autocast)
    checked(case, plain_step, None)()
    for quantity in QUANTITIES:
        checked(case, partial(our_step, quantity=quantity), quantity)()


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_that_is_not_counted_is_missed(name: str) -> None:
    """Under autocast too, with the tolerance that bfloat16 takes."""
    case = replace(SMALL[name](), autocast=True)

    def forgets(case: Case) -> tuple:
        training, step = our_step(case, QUANTITIES[0])

        def forgetful() -> object:
            record = step()
            share = max(p.grad.square().sum() for p in training.model.parameters())
            return replace(record, sq_norms=record.sq_norms - share)

        return training, forgetful

    with pytest.raises(AssertionError, match="sq_norms is off by"):
        checked(case, forgets, QUANTITIES[0])


def test_the_product_of_a_step_is_in_bfloat16() -> None:
    training = replace(SMALL["resnet18"](), autocast=True).build()
    seen = []
    training.model.head.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    training.loss().backward()
    assert seen == [torch.bfloat16]
    assert training.model.head.weight.grad.dtype == torch.float32
