"""How training steps are compared: where rounding decides on which side of a kink a unit falls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.train_steps import steps
from benchmarks.train_steps.kinks import NoKinks, without_kinks
from benchmarks.train_steps.models import Case, Training, mean_loss
from benchmarks.train_steps.steps import (
    NORMS,
    PRODUCTS,
    QUANTITIES,
    TOLERANCE,
    VARIANCE,
    Maker,
    Measured,
    Step,
    check,
    checked,
    our_step,
    plain_step,
    reference,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SAMPLES, INPUTS, UNITS = 4, 64, 8
FORWARDS, BACKWARDS = range(INPUTS), range(INPUTS - 1, -1, -1)


def before_the_kink(model: nn.Module, inputs: Tensor, order: Sequence[int]) -> Tensor:
    """The first layer, added up one input at a time: the same bits on every processor."""
    first = model[0]
    total = torch.zeros(len(inputs), UNITS)
    for i in order:
        total = total + inputs[:, i : i + 1] * first.weight[:, i]
    return total + first.bias


def planted() -> Case:
    """One sample has a unit within rounding of zero, whose sign depends on the order of its sum."""
    inputs = torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(5))

    def model() -> nn.Module:
        made = nn.Sequential(nn.Linear(INPUTS, UNITS), nn.ReLU(), nn.Linear(UNITS, 3))
        with torch.no_grad():
            made[0].bias.zero_()
            sums = [before_the_kink(made, inputs, order) for order in (FORWARDS, BACKWARDS)]
            at = int((sums[0] - sums[1]).abs().argmax())
            sample, unit = divmod(at, UNITS)
            made[0].bias[unit] = -(sums[0] + sums[1])[sample, unit] / 2
        return made

    return Case("planted", SAMPLES, model, lambda size: (inputs, torch.arange(size) % 3))


def in_order(case: Case, order: Sequence[int], factor: float = 1.0) -> tuple[Training, Step]:
    """A step whose first layer adds up in this order; ``factor`` makes its statistics wrong."""
    training = case.build()
    model, inputs, targets, _ = training
    parameters = list(model.parameters())

    def losses(rows: slice) -> Tensor:
        return mean_loss(model[1:](before_the_kink(model, inputs[rows], order)), targets[rows])

    def step() -> Measured:
        training.zero_grad()
        losses(slice(None)).backward()
        rows = torch.stack(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(losses(row), parameters)])
                for row in (slice(i, i + 1) for i in range(SAMPLES))
            ]
        )
        flat = torch.cat([p.grad.flatten() for p in parameters])
        sums = rows.square().sum(0).split([p.numel() for p in parameters])
        names = [name for name, _ in model.named_parameters()]
        return Measured(
            factor * rows.square().sum(1),
            {n: factor * s.view_as(p) for n, s, p in zip(names, sums, parameters, strict=True)},
            factor * rows @ flat,
        )

    return training, step


def test_a_unit_within_rounding_of_zero_flips() -> None:
    """What is planted is there: two steps that are far apart, and nothing wrong in either."""
    case = planted()
    model, inputs, _, _ = case.build()
    found = [before_the_kink(model, inputs, order) for order in (FORWARDS, BACKWARDS)]
    flipped = (found[0] > 0) != (found[1] > 0)
    assert int(flipped.sum()) == 1
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
    grads = []
    for order in (FORWARDS, BACKWARDS):
        training, step = in_order(case, order)
        step()
        grads.append(training.model[0].weight.grad)
    assert float((grads[0] - grads[1]).norm()) > 10 * TOLERANCE * float(grads[0].norm())


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize(
    "make", [partial(in_order, order=FORWARDS), partial(in_order, order=BACKWARDS), None]
)
def test_a_right_step_passes_on_whichever_side(make: Maker | None, quantity: str) -> None:
    checked(planted(), make or partial(our_step, quantity=quantity), quantity)
    checked(planted(), make or plain_step, None)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_statistics_that_are_off_by_some_tenths_of_a_percent_fail(quantity: str) -> None:
    for order in (FORWARDS, BACKWARDS):
        with pytest.raises(AssertionError, match=r"is off by 3\.0e-03, 1\.0e-03 is allowed"):
            checked(planted(), partial(in_order, order=order, factor=1.003), quantity)


def test_a_gradient_that_is_off_by_some_tenths_of_a_percent_fails() -> None:
    case = planted()
    training, step = plain_step(replace(case, twin=True))
    step()
    check(None, training, reference(case), None)
    training.model[2].weight.grad.mul_(1.003)
    with pytest.raises(AssertionError, match=r"\.grad of 2\.weight is off by 3\.0e-03"):
        check(None, training, reference(case), None)


KINKED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu_": lambda x: (x + 1).relu_(),
    "hardtanh": nn.Hardtanh(),
    "leaky_relu": nn.LeakyReLU(),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-1, 1),
    "maximum": lambda x: torch.maximum(x, -x),
    "amax": lambda x: x - x.amax(1, keepdim=True),
    "max_pool": lambda x: nn.functional.max_pool1d(x, 2),
    "round": torch.round,
    "gt": lambda x: torch.where(x > 0, x, 0.1 * x),
    "sort": lambda x: x.sort().values,
}


class Kinked(nn.Module):
    """A function in place of a module: the twin still has it."""

    def __init__(self, kink: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.kink = nn.Linear(6, 6), kink

    def forward(self, x: Tensor) -> Tensor:
        return self.kink(self.inner(x))


@pytest.mark.parametrize("name", KINKED)
def test_a_kink_that_no_twin_is_without_is_found(name: str) -> None:
    def batch(size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(size, 6), torch.arange(size)

    case = Case(name, 2, lambda: Kinked(KINKED[name]), batch)
    with pytest.raises(ValueError, match=f"{name}.* has a kink"):
        reference(case)


def test_integers_have_none() -> None:
    tokens = torch.arange(6)
    with NoKinks():
        assert int((tokens > 2).sum()) == 3
        assert int(tokens.max()) == 5


def test_a_twin_has_the_sizes_and_the_parameters() -> None:
    layers = [nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Sequential(nn.MaxPool2d(3, 2, 1))]
    model = nn.Sequential(*layers)
    shape, names = model(torch.randn(2, 2, 9, 8)).shape, list(model.state_dict())
    twin = without_kinks(model)
    with NoKinks():
        assert twin(torch.randn(2, 2, 9, 8)).shape == shape
    assert list(twin.state_dict()) == names


def bfloat16(case: Case) -> Case:
    return replace(case, autocast=True)


def test_under_autocast_a_step_may_round_as_the_loop_does() -> None:
    case = bfloat16(planted())
    allowed, values = reference(case).allowed, reference(case).values
    exact = reference(planted()).values
    assert all(torch.equal(value, exact[name]) for name, value in values.items())
    for name in ("sq_norms", "inner_products"):
        assert 0.004 < allowed[name] / float(values[name].norm()) < 0.04
    checked(case, plain_step, None)
    for quantity in QUANTITIES:
        checked(case, partial(our_step, quantity=quantity), quantity)


@pytest.mark.parametrize("quantity", [NORMS, VARIANCE, PRODUCTS])
def test_under_autocast_statistics_that_are_off_by_some_percent_fail(quantity: str) -> None:
    for factor in (0.95, 1.05):
        with pytest.raises(AssertionError, match="is off by"):
            checked(bfloat16(planted()), partial(in_order, order=FORWARDS, factor=factor), quantity)


def test_a_loop_whose_own_rounding_is_large_is_nothing_to_compare_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "MOST_ROUNDING", 1e-5)
    reference.cache_clear()
    with pytest.raises(AssertionError, match="the loop's own norms are off"):
        reference(bfloat16(planted()))
