"""Loops of Accelerate and of Fabric in one, two and four processes, against a plain loop."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import steps_cases
import torch
from steps_cases import SAMPLES, build, controller, data, scheduled, weights
from support import ranks
from support.ranks import Cases, values
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import adadagrad_kernels as adk

INSTALLED = {"accelerate": "accelerate", "fabric": "lightning"}
if not any(map(importlib.util.find_spec, INSTALLED.values())):
    pytest.skip("neither accelerate nor lightning is installed", allow_module_level=True)

Of = Callable[[str], list[Any]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Cases]:
    """What every case gave on so many ranks."""
    return ranks.run_once(("steps_cases",), (1, 2, 4), tmp_path_factory)


@pytest.fixture(params=["accelerate", "fabric"])
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(INSTALLED[name], reason=f"{INSTALLED[name]} is not installed")
    return name


WORLDS = [(name, size) for name in INSTALLED for size in (1, 2, 4)]


@pytest.fixture(params=WORLDS, ids=lambda pair: f"{pair[0]} in {pair[1]}")
def of(request: pytest.FixtureRequest, world: dict[int, Cases]) -> Of:
    """What a case of a library gave on every rank, by its name."""
    name, size = request.param
    pytest.importorskip(INSTALLED[name], reason=f"{INSTALLED[name]} is not installed")

    def runs(case: str) -> list[Any]:
        found = values(world[size][f"{name}_{case}"])
        if found[0] is None:
            pytest.skip("four processes run less")
        return found

    return runs


@cache
def plain_loop(criterion: Any = None, dropout: float = 0.0) -> dict[str, Any]:
    """The same run in whole batches, without a library."""
    model, tensors, decides = build(dropout), data().tensors, controller(criterion)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    rate = scheduled(optimizer)
    sampler = adk.AdaptiveBatchSampler(len(data()), decides, seed=5, total_samples=SAMPLES)
    found: dict[str, Any] = {"sizes": [], "losses": [], "rates": []}
    products = getattr(decides.criterion, "needs_inner_products", False)
    with adk.layer_statistics(model, inner_products=products) as recorder:
        for indices in sampler:
            found["rates"].append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            loss = cross_entropy(model(tensors[0][indices]), tensors[1][indices])
            loss.backward()
            decides.update(recorder.statistics())
            clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
            rate.step(len(indices))
            found["sizes"].append(len(indices))
            found["losses"].append(loss.item())
    return {**found, "weights": weights(model)}


def test_a_loop_trains_as_a_plain_one(of: Of) -> None:
    """Statistics are of unclipped gradients; sizes, losses and rates are those of one process."""
    expected = plain_loop()
    assert len(set(expected["sizes"])) > 5
    runs = of("trains")
    for run in runs:
        torch.testing.assert_close(run["weights"], expected["weights"], rtol=1e-10, atol=1e-12)
        assert torch.equal(run["weights"], runs[0]["weights"])
        assert run["sizes"] == expected["sizes"]
        assert run["losses"] == pytest.approx(expected["losses"], rel=1e-10)
        assert run["rates"] == pytest.approx(expected["rates"], rel=1e-12)


def test_every_sample_is_drawn_as_often_as_another(of: Of) -> None:
    """250 of 90: each twice, and 70 of them once more."""
    drawn = [index for run in of("trains") for index in run["drawn"]]
    assert len(drawn) == SAMPLES
    assert Counter(Counter(drawn).values()) == {3: 70, 2: 20}


def test_the_plan_ends_with_the_samples(of: Of) -> None:
    for run in of("trains"):
        assert [left == 0 for left in run["left"]] == [False] * (len(run["left"]) - 1) + [True]
        assert run["epoch"] == pytest.approx(SAMPLES / 90)
        assert run["metrics"]["samples_seen"] == SAMPLES
        assert run["metrics"]["batch/used"] == run["sizes"][-1]


def test_a_resumed_run_is_the_one_that_never_stopped(of: Of) -> None:
    """Bit for bit, with dropout and two loader workers, from a checkpoint of the library's own."""
    for whole, stopped, resumed in of("resumes"):
        assert len(stopped["sizes"]) == 3
        assert len(set(whole["sizes"])) > 4
        for what in ("sizes", "losses", "rates", "drawn", "left"):
            assert stopped[what] + resumed[what] == whole[what], what
        assert torch.equal(resumed["weights"], whole["weights"])


def test_micro_batches_say_sizes_too(of: Of) -> None:
    sizes = {tuple(run["sizes"]) for run in of("in_micro_batches")}
    ((first, *others),) = sizes
    assert (first, sum(others)) == (8, SAMPLES - 8)
    assert max(others) > 20


def test_inner_products_follow_from_the_losses(of: Of) -> None:
    """Those of a plain loop in whole batches, which knows them from its only backward pass."""
    expected = plain_loop(adk.InnerProductTest(theta=0.35))
    assert len(set(expected["sizes"])) > 3
    for run in of("inner_products"):
        assert run["sizes"] == expected["sizes"]
        torch.testing.assert_close(run["weights"], expected["weights"], rtol=1e-10, atol=1e-12)


def test_ranks_with_single_samples_are_told_what_to_do(of: Of) -> None:
    everyone = of("single_samples")
    world = len(everyone)
    for said in everyone:
        assert ("no error" in said) == (world == 1)
        assert world == 1 or f"BatchController(round_to={world})" in said


def test_a_gradient_that_is_not_finite_is_an_error_on_every_rank(of: Of) -> None:
    """Before anything is stepped along it; or it is recorded, and the size stays."""
    everyone = of("not_a_number")
    for rank, (errors, sizes, counted) in enumerate(everyone):
        (of_layers, *_), (of_parts, *_) = errors
        assert "layer '3' (Linear) has per-sample gradients that are not finite" in of_layers
        named = of_layers.startswith(f"ValueError: rank {len(everyone) - 1}: ")
        assert named == (rank != len(everyone) - 1)
        assert "gradients of the micro-batches of a step" in of_parts
        for _, steps, parameters in errors:
            assert steps == 2
            assert parameters.isfinite().all()
        assert sum(sizes) == SAMPLES
        assert len({*sizes[2:-1]}) == 1
        assert counted == len(sizes) - 2


@pytest.mark.parametrize(
    ("library", "words"),
    [("accelerate", "pass what accelerator.prepare(model)"), ("fabric", "Fabric trains with 1")],
)
def test_a_model_that_nothing_reduces_is_refused(
    library: str, words: str, world: dict[int, Cases]
) -> None:
    pytest.importorskip(INSTALLED[library], reason=f"{INSTALLED[library]} is not installed")
    for said in values(world[2][f"{library}_each_by_itself"]):
        assert said.startswith("ValueError")
        assert words in said


REFUSED = {
    "without_backward": "micro-batch 1 of 2 had no backward pass",
    "leaves_a_step": "a step ended before its micro-batches did",
    "backward_twice": "belongs once into the loop",
    "no_mean": "got shape (4,): use .mean()",
    "steps_counted": "pass SamplesLR(scheduler, samples_per_step)",
    "another_criterion": "criterion='NormTest(eta=0.4)'",
    "another_scheduler": "the saved run had a scheduler=",
    "another_optimizer": "of another optimizer: class SGD, groups [4], not class Adam, groups [4]",
    "another_model": "the checkpoint is of another model: class Bert",
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_says_what_is_wrong(library: str, what: str, world: dict[int, Cases]) -> None:
    (said,) = values(world[1][f"{library}_refused"])
    assert said.keys() == REFUSED.keys()
    assert REFUSED[what] in said[what]


def test_every_case_has_run(world: dict[int, Cases]) -> None:
    assert set(world[1]) == {case.__name__ for case in steps_cases.CASES}
