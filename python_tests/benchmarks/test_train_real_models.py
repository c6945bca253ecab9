"""The models in use whose training steps are measured, at a size of their own for the tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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

import limits  # noqa: E402
import train_step_goals  # noqa: E402
import train_step_models  # noqa: E402
from goals import Experiment, Goal, Settings  # noqa: E402
from train_step_models import Case  # noqa: E402
from train_step_peers import peers  # noqa: E402
from train_step_real_models import gpt2, llama, no_transformers, resnet18, vit  # noqa: E402
from train_steps import QUANTITIES, checked, our_step, plain_step  # noqa: E402

from adadagrad_kernels.backends import cpu  # noqa: E402
from adadagrad_kernels.statistics.measuring import pending  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
needs_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))
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


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
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


def test_they_stand_beside_plain_steps_alone() -> None:
    case = resnet18()
    assert not any(peers(case, quantity) for quantity in QUANTITIES)
    times = train_step_goals.step_times(case, train_step_goals.FLOAT32_LIMITS, 2)
    assert [goal.what for goal in times.goals] == [f"{q} / plain step" for q in QUANTITIES]


def test_memory_leaves_out_what_the_rows_name() -> None:
    """One chunk of contributions where there are such, and the variance itself."""
    assert pending._CHUNK_BYTES == train_step_goals.CONTRIBUTIONS == 32 << 20
    memory = train_step_goals.step_memory(gpt2())
    assert memory.title.endswith("(C: 32 MiB of contributions)")
    assert [goal.what for goal in memory.goals] == [
        "norms less C / plain step",
        "norms + variance less C and D / plain step",
        "norms + inner products less C / plain step",
    ]
    memory = train_step_goals.step_memory(resnet18())
    assert "contributions" not in memory.title
    assert memory.goals[1].what == "norms + variance less D / plain step"


def test_memory_of_a_step_under_autocast() -> None:
    case = replace(SMALL["resnet18"](), autocast=True)
    experiment = train_step_goals.step_memory(case)
    for row in limits._rows(experiment, rounds=2):
        assert 0.9 < row["measured"] < 3


def test_long_steps_have_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def rounds_of_seconds(contenders: dict, rounds: int) -> dict:
        asked.append(rounds)
        return {name: [1.0, 2.0] for name in contenders}

    monkeypatch.setattr(limits, "rounds_of_seconds", rounds_of_seconds)
    goals = [Goal("", "one", "other", 1.0)]
    experiment = Experiment("", lambda: {"one": print, "other": print}, goals, most_rounds=3)
    for rounds in (9, 2):
        list(limits._rows(experiment, rounds))
    assert asked == [3, 2]
    long = {e.title: e.most_rounds for e in train_step_goals.experiments(Settings(1, 2, False))}
    assert long["train step of ResNet-18, batch 64, 2 threads"] == train_step_goals.MOST_ROUNDS
    assert long["train step of MLP, batch 512, 2 threads"] is None


@needs_kernels
def test_what_the_machine_lacks_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it raises ImportError
    monkeypatch.setattr(train_step_models, "no_bfloat16", lambda: "no such units")
    target = tmp_path / "limits.json"
    settings = ["--size", "1", "--rounds", "2", "--threads", "1", "--quick"]
    assert limits.main([*settings, "--only", "step of Llama", "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert (
        "train step of Llama 1 x 128, batch 2 x 64, 1 thread\n  left out: needs Transf" in printed
    )
    report = json.loads(target.read_text())
    assert report["rows"] == []
    assert len(report["left_out"]) == 4, "times and memory, in both precisions"
    assert all("requirements/models.txt" in reason for reason in report["left_out"].values())
    assert limits.main([*settings, "--only", "ResNet-10, batch 2, bf16"]) == 0
    assert "left out: no such units" in capsys.readouterr().out
