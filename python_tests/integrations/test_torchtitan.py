"""The recipe for torchtitan's Trainer, against a plain loop of one process and over a stop."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip(
    "torchtitan", reason="runs where torchtitan==0.3.0 is, which no requirements have"
)

import torch
from support import ranks
from support.ranks import Cases, values
from torch.nn.functional import cross_entropy

import adadagrad_kernels as adk

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchtitan_cases as cases


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return ranks.run_once(("torchtitan_cases",), [2], tmp_path_factory)[2]


def plain_loop(first: dict[str, torch.Tensor]) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Whole batches of one process, clipped after they were measured."""
    model = cases.settings("").model_spec.model.build()
    assert not model.load_state_dict(first, strict=False).unexpected_keys
    settings = {"betas": (0.9, 0.95), "eps": cases.EPS, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW(model.parameters(), lr=cases.RATE, **settings)
    controller, words, sizes = cases.by_gradients(), cases.texts(), []
    sampler = adk.AdaptiveBatchSampler(words, 4, seed=5, total_samples=cases.BUDGET)
    drawn = [index for unit in sampler for index in unit]
    with adk.layer_statistics(model) as recorder:
        while controller.samples_seen + controller.batch_size <= cases.BUDGET:
            own = words[drawn[controller.samples_seen :][: controller.batch_size]]
            optimizer.zero_grad()
            cross_entropy(model(own[:, :-1]).flatten(0, 1), own[:, 1:].flatten()).backward()
            statistics = recorder.statistics()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            controller.update(statistics)
            sizes.append(len(own))
    return sizes, dict(model.named_parameters())


def test_it_trains_as_a_plain_loop(told: Cases) -> None:
    of_ranks = values(told["trained"])
    sizes, weights = plain_loop(of_ranks[0]["first"])
    assert len(set(sizes)) > 2
    for of_rank in of_ranks:
        assert of_rank["sizes"] == sizes
        for name, weight in of_rank["weights"].items():
            # Adam divides by what is small here; the weights have moved by up to 0.014.
            torch.testing.assert_close(weight, weights[name].detach(), rtol=0, atol=5e-4)
            assert torch.equal(weight, of_ranks[0]["weights"][name])


def test_a_resumed_run_is_the_one_that_never_stopped(told: Cases) -> None:
    for whole, stopped, resumed in values(told["resumed"]):
        assert stopped["sizes"] == whole["sizes"][:5]
        assert resumed["sizes"] == whole["sizes"][3:]
        assert resumed["steps"] == whole["steps"]
        for name, weight in whole["weights"].items():
            assert torch.equal(resumed["weights"][name], weight), name
