"""trl's SFTTrainer by the mixin: its loss, its tokens, its statistics, its ranks."""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason="trl is not installed")
pytest.importorskip("datasets", reason="datasets is not installed")

import torch
from sft_cases import gpt2, grows, letters, text
from sft_ranks_cases import RATE
from support import ranks
from support.ranks import Cases, Told, values
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

import adadagrad_kernels as adk

SAMPLES = 156  # of 78


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Told]]:
    return ranks.run_once(("sft_cases",), [1], tmp_path_factory)[1]


def test_the_layers_see_a_loss_of_the_logits(told: dict[str, list[Told]]) -> None:
    (run,) = values(told["by_layers"])
    size, variance, norm, tokens = run["first"]
    first, *_, last, _ = run["history"]
    assert first["batch/used"] == size
    assert first["grad/var"] == pytest.approx(variance, rel=1e-4)
    assert first["grad/norm_sq"] == pytest.approx(norm, rel=1e-4)
    # trl counts them: in training alone, though the loss was asked twice what it is a mean of.
    assert first["num_tokens"] == tokens
    assert last["samples_seen"] == SAMPLES
    assert first["batch/used"] < last["batch/global"]


def test_micro_batches_take_its_own_loss(told: dict[str, list[Told]]) -> None:
    """Its gradient is that of the logits; its variance is an estimate."""
    (run,) = values(told["by_micro_batches"])
    first, *_, last, _ = run["history"]
    assert first["grad/norm_sq"] == pytest.approx(run["first"][2], rel=1e-4)
    assert first["num_tokens"] == run["first"][3]
    assert last["samples_seen"] == SAMPLES
    assert first["batch/used"] < last["batch/global"]


def plain_loop() -> tuple[torch.Tensor, list[int], list[float]]:
    """Whole batches of one process, without a trainer; trl ends each line with a token."""
    words = letters()
    lines = [torch.tensor([*words(line)["input_ids"], 1]) for line in text()["text"]]
    model, controller = gpt2().double(), grows()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    sizes, rates = [], []
    with adk.layer_statistics(model) as recorder:
        for indices in adk.AdaptiveBatchSampler(lines, controller, seed=5, total_samples=SAMPLES):
            rates.append(RATE * (1 - controller.samples_seen // 8 / -(-SAMPLES // 8)))
            optimizer.param_groups[0]["lr"] = rates[-1]
            rows = [lines[index] for index in indices]
            labels = pad_sequence(rows, batch_first=True, padding_value=-100)
            kept = (labels != -100).long()
            optimizer.zero_grad()
            logits = model(labels.clamp(min=0), attention_mask=kept).logits
            targets = labels[:, 1:].flatten()
            summed = cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum")
            (summed / kept.sum()).backward()
            controller.update(recorder.statistics())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            sizes.append(len(indices))
    return torch.cat([p.detach().flatten() for p in model.parameters()]), sizes, rates


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(2, id="two ranks"),
        pytest.param(4, id="four ranks", marks=pytest.mark.nightly),
    ],
)
def of_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    module = {2: "sft_ranks_cases", 4: "sft_wide_cases"}[request.param]
    return ranks.run_once((module,), [request.param], tmp_path_factory)[request.param]


def test_ranks_train_as_a_plain_loop(of_ranks: Cases) -> None:
    weights, sizes, rates = plain_loop()
    assert len(set(sizes)) > 3
    assert sum(sizes) == SAMPLES
    found = values(of_ranks["trained"])
    for of_rank in found:
        assert of_rank["sizes"] == sizes
        assert of_rank["rates"] == pytest.approx(rates)
        torch.testing.assert_close(of_rank["weights"], weights, rtol=1e-9, atol=1e-10)
        assert torch.equal(of_rank["weights"], found[0]["weights"])


def test_ranks_resume_bit_for_bit(of_ranks: Cases) -> None:
    found = values(of_ranks["again"])
    for of_rank in found:
        whole, stopped, resumed = of_rank["sizes"]
        assert stopped == whole[:5]
        assert resumed == whole
        assert sum(whole) == SAMPLES
        assert whole[0] < whole[-2]
        assert torch.equal(*of_rank["weights"])
        assert torch.equal(of_rank["weights"][0], found[0]["weights"][0])


def test_a_loss_that_no_layer_sees_is_refused(told: dict[str, list[Told]]) -> None:
    (said,) = values(told["with_its_own_loss"])
    assert "'transformer.wte.weight' does not add up" in said
