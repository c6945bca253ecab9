"""Steps with statistics, and how one is found to be right, on small models."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from support.train_step_cases import CASES, each_case

from benchmarks.train_steps.models import Case
from benchmarks.train_steps.peers import peers
from benchmarks.train_steps.steps import (
    NORMS,
    PRODUCTS,
    QUANTITIES,
    VARIANCE,
    Maker,
    Measured,
    check,
    checked,
    our_step,
    plain_step,
    reference,
)


@pytest.mark.usefixtures("one_thread")
@each_case
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_way_to_a_step_agrees(case: Case, quantity: str) -> None:
    """On the twin, and more than once; the step that is given back is that of the case itself."""
    for make in (partial(our_step, quantity=quantity), *peers(case, quantity).values()):
        training, step = make(replace(case, twin=True))
        step()
        check(step(), training, reference(case), quantity)
        built = []

        def noted(case: Case, make: Maker = make, built: list[Case] = built) -> object:
            built.append(case)
            return make(case)

        checked(case, noted, quantity)()
        assert built == [replace(case, twin=True), case]
    checked(case, plain_step, None)()


@pytest.mark.parametrize("what", ["grad", *QUANTITIES])
def test_a_wrong_result_does_not_count(what: str) -> None:
    case = CASES["mlp"]
    training, step = our_step(replace(case, twin=True), NORMS if what == "grad" else what)
    statistics = step()
    if what == "grad":
        training.model[0].bias.grad[0] *= 1.1
    elif what == NORMS:
        statistics.sq_norms[2] *= 1.01
    elif what == PRODUCTS:
        statistics.inner_products[2] *= 1.01
    else:
        next(iter(statistics.variance.values())).mul_(1.01)
    with pytest.raises(AssertionError, match="is off by"):
        check(statistics, training, reference(case), None if what == "grad" else what)


def test_a_peer_that_lacks_something_does_not_count() -> None:
    case = CASES["mlp"]
    training, step = plain_step(replace(case, twin=True))
    step()
    expected = reference(case)
    for quantity in (VARIANCE, PRODUCTS):
        with pytest.raises(AssertionError, match="missing"):
            check(Measured(expected.values["sq_norms"]), training, expected, quantity)
