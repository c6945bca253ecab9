"""AdaptiveTrainer in one process and in two: against a plain loop, over a stop, with bad input."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

import torch
from support import ranks
from support.ranks import Cases, values
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import default_collate
from trainer_models import Text, bert, gpt2, token_loss, weights

import adadagrad_kernels as adk

SAMPLES = 250
WORLDS = (1, 2)


@pytest.fixture(scope="module", params=WORLDS, ids=["one process", "two processes"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """What every case gave, on every rank."""
    return ranks.run_once(("hf_cases",), WORLDS, tmp_path_factory)[request.param]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """What each of two processes gave."""
    return ranks.run_once(("hf_cases",), WORLDS, tmp_path_factory)[2]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """What one process gave, which runs some cases more."""
    return ranks.run_once(("hf_cases",), WORLDS, tmp_path_factory)[1]


def plain_loop(model: Any, data: Text, loss_of: Any) -> tuple[torch.Tensor, list[int], list[float]]:
    """The same run without a trainer: whole batches, and the rate by samples."""
    controller = adk.BatchController(
        adk.NormTest(eta=0.4), batch_size=8, max_batch_size=64, growth_cap=1.5
    )
    sampler = adk.AdaptiveBatchSampler(data, controller, seed=5, total_samples=SAMPLES)
    optimizer = adk.Adagrad(model.parameters(), lr=0.02)
    units = -(-SAMPLES // 8)
    sizes, losses = [], []
    with adk.layer_statistics(model) as recorder:
        for indices in sampler:
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - controller.samples_seen // 8 / units)
            batch = default_collate([data[index] for index in indices])
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            controller.update(recorder.statistics())
            clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            sizes.append(len(indices))
            losses.append(loss.item())
    return weights(model), sizes, losses


def of_tokens(model: Any, batch: Any) -> torch.Tensor:
    """As the Trainer counts items: of GPT-2 the first label too, which predicts nothing."""
    labels = batch.pop("labels")
    return token_loss(model(**batch), labels, (labels != -100).sum())


def of_samples(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch).loss


@pytest.mark.parametrize(
    ("case", "model", "data", "loss_of"),
    [
        ("tokens", gpt2, Text(), of_tokens),
        ("samples", bert, Text(classes=True), of_samples),
    ],
)
def test_it_trains_as_a_plain_loop(
    told: Cases, case: str, model: Any, data: Text, loss_of: Any
) -> None:
    """Weights, sizes and losses: statistics from unclipped gradients, the rate by samples."""
    expected, sizes, losses = plain_loop(model(dtype=torch.float64), data, loss_of)
    assert len(set(sizes)) > 4
    for of_rank in values(told[case]):
        torch.testing.assert_close(of_rank["weights"], expected, rtol=1e-9, atol=1e-10)
        assert of_rank["sizes"] == sizes
        # The Trainer keeps a sum of losses in float32.
        assert of_rank["losses"] == pytest.approx(losses, rel=1e-5)


def test_four_processes_train_as_a_plain_loop(tmp_path_factory: pytest.TempPathFactory) -> None:
    expected, sizes, _ = plain_loop(gpt2(dtype=torch.float64), Text(), of_tokens)
    told = ranks.run_once(("hf_wide_cases",), [4], tmp_path_factory)[4]
    of_ranks = values(told["tokens"])
    for of_rank in of_ranks:
        torch.testing.assert_close(of_rank["weights"], expected, rtol=1e-9, atol=1e-10)
        assert torch.equal(of_rank["weights"], of_ranks[0]["weights"])
        assert of_rank["sizes"] == sizes
    drawn = Counter(index for of_rank in of_ranks for index in of_rank["drawn"])
    assert sum(drawn.values()) == SAMPLES
    assert Counter(drawn.values()) == {3: 70, 2: 20}


@pytest.mark.parametrize("case", ["tokens", "samples"])
def test_every_sample_is_drawn_as_often_as_another(told: Cases, case: str) -> None:
    """250 of 90: each twice, and 70 of them once more."""
    drawn = [index for of_rank in values(told[case]) for index in of_rank["drawn"]]
    assert len(drawn) == SAMPLES
    assert Counter(Counter(drawn).values()) == {3: 70, 2: 20}


def test_ranks_have_the_same_weights(told: Cases) -> None:
    for case in ("tokens", "samples", "in_micro_batches"):
        first, *others = values(told[case])
        assert all(torch.equal(first["weights"], other["weights"]) for other in others), case


def test_the_plan_ends_with_the_samples(told: Cases) -> None:
    """Steps that are left at the present size, the epoch, and the rate's way to its end."""
    for run in values(told["tokens"]):
        seen = 0
        for size, left, epoch, rate in zip(
            run["sizes"], run["left"], run["epochs"], run["rates"], strict=True
        ):
            # Logged is the rate that the step took.
            assert rate == pytest.approx(0.02 * (1 - seen // 8 / 32))
            seen += size
            assert epoch == pytest.approx(seen / 90)
            assert (left == 0) == (seen == SAMPLES)
        steps = len(run["sizes"])
        assert run["state"] == (steps, steps, pytest.approx(SAMPLES / 90))
        assert run["left"][0] == -(-(SAMPLES - 8) // 12)


def test_the_log_has_what_the_controller_knows(told: Cases) -> None:
    for run in values(told["tokens"]):
        first = run["history"][0]
        assert {"loss", "batch/global", "batch/used", "gns", "samples_seen"} <= first.keys()
        assert (first["samples_seen"], first["batch/used"], first["batch/global"]) == (8, 8, 12)


def test_an_evaluation_changes_nothing(alone: Cases) -> None:
    (run,), (without,) = values(alone["tokens"]), values(alone["tokens_without_evaluation"])
    evaluated = [line["step"] for line in run["history"] if "eval_loss" in line]
    assert evaluated == [3, 6, 9]
    assert torch.equal(run["weights"], without["weights"])


def test_a_resumed_run_is_the_one_that_never_stopped(together: Cases) -> None:
    """Bit for bit, with dropout and two loader workers, from three steps of five that it took."""
    for whole, stopped, resumed, saved in values(together["again"]):
        # The plan says which step is the last: that one is saved, besides every third.
        steps = len(whole["sizes"])
        assert sorted(saved) == sorted({*range(3, steps + 1, 3), steps})
        assert len(stopped["sizes"]) == 5
        assert len(set(whole["sizes"])) > 3
        assert len(resumed["epochs"]) == len(whole["epochs"]) - 3
        for what in ("sizes", "rates", "losses", "state"):
            assert resumed[what] == whole[what], what
        assert torch.equal(resumed["weights"], whole["weights"])
        assert not torch.equal(stopped["weights"], whole["weights"])


def test_micro_batches_say_sizes_too(told: Cases) -> None:
    """An estimate, from four micro-batches or more of each batch."""
    sizes = {tuple(run["sizes"]) for run in values(told["in_micro_batches"])}
    ((first, *others),) = sizes
    assert first == 8
    assert max(others) > 20
    assert sum(others) == SAMPLES - 8


def test_inner_products_follow_from_the_samples_alone(alone: Cases) -> None:
    """The sizes of a plain loop, which knows them from its only backward pass."""
    model, data = bert(), Text(classes=True)
    controller = adk.BatchController(
        adk.InnerProductTest(theta=0.4), batch_size=8, max_batch_size=64
    )
    sampler = adk.AdaptiveBatchSampler(data, controller, seed=5, total_samples=60)
    optimizer = adk.Adagrad(model.parameters(), lr=0.02)
    sizes = []
    with adk.layer_statistics(model, inner_products=True) as recorder:
        for indices in sampler:
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - controller.samples_seen // 8 / 8)
            optimizer.zero_grad()
            of_samples(model, default_collate([data[index] for index in indices])).backward()
            controller.update(recorder.statistics())
            clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            sizes.append(len(indices))
    (run,) = values(alone["inner_products"])
    assert len(set(sizes)) > 2
    assert run["sizes"] == sizes
    torch.testing.assert_close(run["weights"], weights(model), rtol=1e-9, atol=1e-10)


def test_a_gradient_that_is_not_finite_is_an_error_on_every_rank(together: Cases) -> None:
    """Before anything is stepped along it."""
    for rank, (said, steps, parameters) in enumerate(values(together["not_a_number"])):
        assert "layer 'classifier' (Linear) has per-sample gradients that are not finite" in said
        assert said.startswith("ValueError: rank 1: ") == (rank == 0)
        assert steps == 1
        assert parameters.isfinite().all()


def test_bfloat16_is_measured(alone: Cases) -> None:
    (run,) = values(alone["in_bfloat16"])
    assert run["weights"].dtype == torch.float32
    assert run["history"][0]["batch/global"] == 12
    assert sum(run["sizes"]) == 60


def test_a_micro_batch_without_labels_is_no_end(alone: Cases) -> None:
    (run,) = values(alone["without_first_labels"])
    assert sum(run["sizes"]) == 20
    assert all(loss > 0 for loss in run["losses"])


def test_training_again_begins_anew(alone: Cases) -> None:
    ((first, drawn),) = values(alone["trained_again"])
    assert [line["epoch"] for line in first["history"] if "eval_loss" in line] == pytest.approx(
        [epoch for epoch, before in zip(first["epochs"], [0, *first["epochs"]], strict=False)
         if int(epoch) > int(before)]
    )  # fmt: skip
    assert sorted(drawn) == sorted([*range(90), *range(90)])


REFUSED = {
    "refused_settings": {
        "gradient_accumulation_steps": "gradient_accumulation_steps=4 does not go with",
        "auto_find_batch_size": "auto_find_batch_size=True",
        "group_by_length": "train_sampling_strategy='group_by_length'",
        "max_steps": "give num_train_epochs, or samples=",
        "dataloader_drop_last": "dataloader_drop_last=True",
        "logging_steps": "logging_steps=0.25",
        "restore_callback_states": "restore_callback_states_from_checkpoint=True",
        "scheduler": "SamplesLR(scheduler, samples_per_step)",
        "gradient_diversity": "save_strategy='no'",
        "no_length": "does not implement __len__",
        "statistics": "statistics must be one of 'layers', 'micro_batches', got 'guessed'",
        "inner_products": "reads inner products",
    },
    "refused_losses": {
        "neither": "neither half of it",
        "own_tokens": "ignores num_items_in_batch, but some labels are -100",
        "no_super": "does not call super().compute_loss",
        "packed": "have seen 1 samples where 8 were drawn",
    },
    "refused_checkpoints": {
        "model": "is of another model: class BertForSequenceClassification",
        "optimizer": "is of another optimizer: class Adagrad, groups [25], not class SGD",
        "criterion": "criterion='NormTest(eta=0.4)'",
        "data": "size=90, but this one has size=91",
        "plain": "saved without a growing batch",
    },
}


@pytest.mark.parametrize(
    ("case", "what"), [(case, what) for case, found in REFUSED.items() for what in found]
)
def test_it_says_what_is_wrong(alone: Cases, case: str, what: str) -> None:
    (said,) = values(alone[case])
    assert said.keys() == REFUSED[case].keys()
    assert REFUSED[case][what] in said[what]
