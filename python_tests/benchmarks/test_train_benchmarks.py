"""The measuring of training steps, on small models; no test here depends on the time it takes."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip(
        "no benchmarks here: these tests run outside the source tree", allow_module_level=True
    )
sys.path.insert(0, str(FOLDER))

import interleaved  # noqa: E402
import limits  # noqa: E402
import train_op_goals  # noqa: E402
import train_step_goals  # noqa: E402
from goals import Experiment, Settings  # noqa: E402
from train_step_models import Case, cnn, gpt, mlp  # noqa: E402
from train_step_peers import peers  # noqa: E402
from train_steps import (  # noqa: E402
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

from adadagrad_kernels.backends import cpu  # noqa: E402

needs_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))

CASES = {
    "mlp": mlp(9, width=24),
    "cnn": cnn(5),
    "gpt": gpt(3, layers=1, width=16, tokens=6),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_the_models_are_those_that_are_named() -> None:
    parameters = {
        name: sum(p.numel() for p in case.build().model.parameters())
        for name, case in {"mlp": mlp(1), "cnn": cnn(1), "gpt": gpt(1)}.items()
    }
    assert parameters == {"mlp": 5_824_522, "cnn": 28_938, "gpt": 3_716_608}


def test_a_case_is_the_same_every_time_and_leaves_the_generator_alone(case: Case) -> None:
    state = torch.get_rng_state()
    one, other = case.build(), case.build()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.loss(), other.loss())
    assert one.model is not other.model


@pytest.mark.usefixtures("one_thread")
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


@pytest.mark.usefixtures("one_thread")
def test_vmap_adds_up_over_its_chunks(case: Case) -> None:
    chunked = replace(case, chunk=2)
    for quantity in QUANTITIES:
        checked(chunked, peers(chunked, quantity)["vmap(grad) in chunks"], quantity)


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


def test_peers_that_hold_all_gradients_are_left_out_of_large_cases() -> None:
    assert "ExpandedWeights" in peers(cnn(512), NORMS)
    assert not {"ExpandedWeights", "vmap(grad) in chunks"} & peers(mlp(512), NORMS).keys()
    assert peers(mlp(512), PRODUCTS) == {}
    goals = train_step_goals.step_times(mlp(512), train_step_goals.MLP_LIMITS, 1).goals
    assert not any(goal.what == f"best peer / ours: {PRODUCTS}" for goal in goals)


def test_times_of_a_step(case: Case) -> None:
    threads = torch.get_num_threads()
    every = dict.fromkeys(QUANTITIES, 2.0)
    rows = rows_of(train_step_goals.step_times(case, every, threads=1))
    assert torch.get_num_threads() == threads
    ours, theirs = rows[:3], rows[3:]
    assert [row["what"] for row in ours] == [f"{q} / plain step" for q in QUANTITIES]
    assert all(row["measured"] > 0 for row in rows)
    assert all(row["chosen"] is None for row in ours)
    for row, quantity in zip(theirs, QUANTITIES, strict=True):
        assert row["chosen"] in peers(case, quantity)
        assert row["at_least"]


def test_memory_of_a_step() -> None:
    case = mlp(8, width=256)
    rows = rows_of(train_step_goals.step_memory(case))
    gradients = sum(p.nbytes for p in case.build().model.parameters())
    for row in rows:
        assert row["unit"] == "B"
        assert gradients <= row["denominator"] < 1.2 * gradients
        assert 0.9 < row["measured"] < 3
    assert rows == rows_of(train_step_goals.step_memory(case)), "the same bytes every time"


@pytest.mark.parametrize(
    "experiment",
    [train_op_goals.linear(2, 5, 7, 3), train_op_goals.conv(2, 3, 4, 6)],
    ids=["linear", "conv"],
)
def test_times_of_layers(experiment: Experiment) -> None:
    (row,) = rows_of(experiment)
    assert row["measured"] > 0


def test_peak_of_the_allocator() -> None:
    def call() -> torch.Tensor:
        torch.empty(3 << 20, dtype=torch.uint8)
        return torch.empty(1 << 20, dtype=torch.uint8).add_(1) + 1

    assert interleaved.allocated_bytes(call) == 3 << 20
    assert interleaved.allocated_bytes(lambda: None) == 0


@pytest.mark.parametrize("quick", [True, False])
def test_every_case_has_its_rows(quick: bool) -> None:
    settings = Settings(size=1 << 20, threads=2, quick=quick)
    steps = list(train_step_goals.experiments(settings))
    titles = [e.title for e in [*steps, *train_op_goals.experiments(settings)]]
    assert len(set(titles)) == len(titles)
    assert all("train" in title for title in titles), "what --only train looks for"
    times = [title for title in titles if title.startswith("train step")]
    assert len(times) == (3 + 8 if quick else 10 + 16)


@needs_kernels
def test_limits_has_the_training_steps(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--size", "1", "--rounds", "2", "--quick", "--only", "train op conv_moments"]
    assert limits.main(asked) == 0
    assert "norms + variance / plain gradient" in capsys.readouterr().out


def rows_of(experiment: Experiment) -> list[dict]:
    return list(limits._rows(experiment, rounds=2))
