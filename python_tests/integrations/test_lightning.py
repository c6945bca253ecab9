"""Lightning's Trainer with ``AdaptiveBatch``, against a plain loop and across processes."""

from __future__ import annotations

import collections
import copy
import itertools
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

import lightning_runs
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning_runs import BUDGET, SAMPLES, Blobs, Classifier, controller, fit
from support.ranks import Told, values

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.lightning import AdaptiveBatch
from adadagrad_kernels.integrations.lightning.checks import MEASURED

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore::UserWarning:lightning",
)


@pytest.fixture(scope="module")
def automatic() -> dict[str, Any]:
    return fit()


def _plain_loop() -> tuple[list[float], list[int], list[float]]:
    """The same training by hand: samples one by one, and one batch drawn ahead."""
    decides = controller()
    sampler = adk.AdaptiveBatchSampler(SAMPLES, decides, seed=5, total_samples=BUDGET)
    model = Classifier(AdaptiveBatch(controller())).net
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    data, sizes, rates = Blobs(), [], []
    source = adk.PerSampleGradients(model, lambda out, target: F.cross_entropy(out, target))
    batches = iter(sampler)
    ahead = next(batches)
    while ahead:
        indices, ahead = ahead, next(batches, [])
        optimizer.param_groups[0]["lr"] = 0.3 * (1.0 - decides.samples_seen / BUDGET)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        statistics = source.backward(data.inputs[indices], data.targets[indices])
        decides.update(statistics)
        optimizer.step()
        sizes.append(len(indices))
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(), sizes, rates


def _close(first: list[float], second: list[float], tolerance: float = 1e-12) -> bool:
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) < tolerance


def _drawn(runs: list[dict[str, Any]]) -> collections.Counter[int]:
    return collections.Counter(i for run in runs for step in run["seen"] for i in step)


def _even(counts: collections.Counter[int], budget: int = BUDGET) -> bool:
    """Whether a budget was drawn, every sample as often as each other but for the last epoch."""
    whole = budget // SAMPLES
    return sum(counts.values()) == budget and set(counts.values()) <= {whole, whole + 1}


def test_it_is_the_loop_that_one_would_write(automatic: dict[str, Any]) -> None:
    weights, sizes, rates = _plain_loop()
    assert automatic["sizes"] == sizes
    assert sizes[0] == 6 < max(sizes)
    assert _close(automatic["weights"], weights)
    assert automatic["rates"] == pytest.approx(rates, abs=1e-15)
    assert automatic["lr"] == pytest.approx(0.0, abs=1e-15), "at the end of the budget"
    assert automatic["steps"] == len(sizes)
    assert _even(_drawn([automatic]))


def test_parts_of_a_batch_are_the_batch(automatic: dict[str, Any]) -> None:
    parts = fit(micro=4)
    assert parts["sizes"] == automatic["sizes"]
    assert _close(parts["weights"], automatic["weights"])
    assert parts["steps"] == automatic["steps"]


@pytest.mark.parametrize("case", ["automatic", "in_parts"])
def test_two_ranks_are_one_process(
    told: dict[str, list[Told]], automatic: dict[str, Any], case: str
) -> None:
    first, second = values(told[case])
    assert first["weights"] == second["weights"], "to the last bit"
    assert first["controller"] == second["controller"]
    assert first["sizes"] == automatic["sizes"], "some of which two ranks cannot share evenly"
    assert any(size % 2 for size in first["sizes"])
    assert _close(first["weights"], automatic["weights"])
    assert first["rates"] == automatic["rates"]
    assert _even(_drawn([first, second]))


def test_inner_products_over_ranks_and_parts(told: dict[str, list[Told]]) -> None:
    one = fit(criterion=adk.InnerProductTest(0.5))
    for of_rank in values(told["by_inner_products"]):
        assert of_rank["sizes"] == one["sizes"]
        assert max(one["sizes"]) > 6
        assert _close(of_rank["weights"], one["weights"], 1e-9)


@pytest.mark.parametrize("kind", [0, 1], ids=["automatic", "in parts with a worker"])
def test_a_resumed_run_is_the_run(told: dict[str, list[Told]], kind: int) -> None:
    """With dropout, and validations that draw random numbers of their own in between."""
    for whole, again in (of_rank[kind] for of_rank in values(told["resumed"])):
        assert again["weights"] == whole["weights"], "to the last bit"
        assert again["seen"] == whole["seen"][10:]
        assert again["controller"] == whole["controller"]
        assert again["rates"] == whole["rates"][10:]
        assert again["steps"] == whole["steps"]
        assert again["validated"] == whole["validated"][2:] != []


def test_epochs_are_passes_over_the_data(tmp_path: Path) -> None:
    options = {"adaptive": {"total_samples": None}, "max_epochs": 3, "limit_val_batches": 1}
    whole = fit(**options, dropout=0.2, folder=tmp_path, save_at=13)
    assert set(_drawn([whole]).values()) == {3}
    starts = [0, *itertools.accumulate(whole["sizes"])]
    assert {SAMPLES, 2 * SAMPLES} <= set(starts), "no batch has samples of two epochs"
    ends = [place for place, seen in enumerate(starts) if seen and seen % SAMPLES == 0]
    assert whole["validated"] == ends
    assert whole["epoch"] == 3
    again = fit(**options, dropout=0.2, resume=tmp_path / "at-step=13.ckpt")
    assert again["weights"] == whole["weights"]
    assert again["seen"] == whole["seen"][13:]
    assert again["validated"] == [step for step in ends if step > 13]


@pytest.mark.parametrize("at_train_end", [False, True])
def test_resumed_at_the_end_of_an_epoch(tmp_path: Path, at_train_end: bool) -> None:
    options = {"adaptive": {"total_samples": None}, "dropout": 0.2, "limit_val_batches": 1}
    saves = ModelCheckpoint(
        dirpath=tmp_path, save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=at_train_end
    )
    whole = fit(**options, max_epochs=3, also=[saves], enable_checkpointing=True)
    again = fit(**options, max_epochs=3, resume=tmp_path / "epoch=1.ckpt")
    assert again["weights"] == whole["weights"]
    done = len(whole["seen"]) - len(again["seen"])
    assert again["seen"] == whole["seen"][done:]
    assert sum(map(len, whole["seen"][:done])) == 2 * SAMPLES


def test_a_loader_that_is_made_anew_every_epoch() -> None:
    class Makes(Classifier):
        def train_dataloader(self) -> Any:
            return self.adaptive.dataloader(Blobs())

    callback = AdaptiveBatch(controller())
    module = Makes(callback)
    made = lightning_runs.trainer(callback, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    made.fit(module)
    assert set(_drawn([{"seen": module.seen}]).values()) == {3}
    orders = [i for seen in module.seen for i in seen]
    assert orders[:SAMPLES] != orders[SAMPLES : 2 * SAMPLES], "each epoch has an order of its own"


def test_an_error_of_training_step_stays_what_it_is() -> None:
    class Breaks(Classifier):
        def __init__(self, adaptive: AdaptiveBatch) -> None:
            super().__init__(adaptive, micro=3)

        def backward(self, loss: Any) -> None:
            raise RuntimeError("out of luck")

    callback = AdaptiveBatch(controller(), statistics="micro_batches")
    with pytest.raises(RuntimeError, match="out of luck"):
        lightning_runs.trainer(callback).fit(Breaks(callback), callback.dataloader(Blobs()))


def test_validation_between_steps_changes_nothing(automatic: dict[str, Any]) -> None:
    options = {"limit_val_batches": 1, "check_val_every_n_epoch": None, "val_check_interval": 4}
    validated = fit(**options)
    assert validated["validated"] == [4, 8, 12, 16, 20, 23], "and at the end of the budget"
    assert validated["weights"] == automatic["weights"]
    dropout, both = fit(dropout=0.2), fit(dropout=0.2, **options)
    assert both["weights"] == dropout["weights"]
    assert dropout["weights"] != automatic["weights"]


def test_a_learning_rate_rule_that_remembers_is_resumed(tmp_path: Path) -> None:
    whole, again = (
        fit(adaptive={"lr_rule": adk.AdaScale(6)}, **options)
        for options in (
            {"folder": tmp_path, "save_at": 15},
            {"resume": tmp_path / "at-step=15.ckpt"},
        )
    )
    assert max(whole["sizes"][15:]) > 6
    assert again["weights"] == whole["weights"]
    assert whole["weights"] != fit()["weights"]


def test_a_second_fit_goes_on(automatic: dict[str, Any]) -> None:
    callback = AdaptiveBatch(controller(), total_samples=BUDGET, seed=5)
    module = Classifier(callback)
    loader = callback.dataloader(Blobs())
    for steps in (7, -1):
        made = lightning_runs.trainer(callback, max_steps=steps)
        made.fit(module, loader)
        assert steps < 0 or made.global_step == steps
        loader = callback.dataloader(Blobs())
    assert _even(_drawn([{"seen": module.seen}]))
    assert len(module.seen) > 7
    assert module.seen[:7] == automatic["seen"][:7]


class _Remember(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(metrics)


def test_what_is_logged(automatic: dict[str, Any]) -> None:
    logger = _Remember()
    fit(logger=logger, log_every_n_steps=1, adaptive={"lr_rule": "sqrt"})
    rows = [row for row in logger.rows if "batch/used" in row]
    sizes = [int(row["batch/used"]) for row in rows]
    assert sizes[0] == 6 < max(sizes)
    assert [row["samples_seen"] for row in rows] == list(itertools.accumulate(sizes))
    assert [row["steps"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["lr/gain"] for row in rows] == pytest.approx([(s / 6) ** 0.5 for s in sizes])
    assert {"batch/global", "test/passed", "grad/norm_sq", "gns"} <= rows[0].keys()


class _Bar(TQDMProgressBar):
    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self.shown = getattr(self, "shown", [])
        self.shown.append((self.train_progress_bar.n, self.train_progress_bar.total))


def test_the_progress_bar_ends_at_its_end(automatic: dict[str, Any]) -> None:
    bar = _Bar()
    run = fit(also=[bar], enable_progress_bar=True)
    done, totals = zip(*bar.shown, strict=True)
    assert done == tuple(range(1, run["steps"] + 1))
    assert totals[0] == 1 + (BUDGET - 6) // 6, "at the first size"
    assert totals[-1] == run["steps"]
    few = _Bar()
    fit(also=[few], enable_progress_bar=True, max_steps=5)
    assert few.shown == [(step, 5) for step in range(1, 6)]


def _first_norm(**options: Any) -> float:
    return float(fit(max_steps=1, **options)["controller"]["gradient"]["grad/norm_sq"])


def test_gradients_are_measured_before_they_are_clipped() -> None:
    plain, clipped = _first_norm(), _first_norm(gradient_clip_val=1e-3)
    assert plain == clipped > 1e-3**2


def test_the_scale_of_a_loss_in_float16_is_taken_out() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    scaled = _first_norm(plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert scaled == pytest.approx(_first_norm(), rel=0.02)


def test_a_model_with_batch_norm_by_its_parts() -> None:
    class Normed(Classifier):
        def __init__(self, adaptive: AdaptiveBatch, micro: int = 4) -> None:
            super().__init__(adaptive, micro=micro)
            self.net.insert(1, nn.BatchNorm1d(16, dtype=torch.float64))

    decides = controller(batch_size=8, max_batch_size=48)
    callback = AdaptiveBatch(decides, total_samples=BUDGET, statistics="micro_batches")
    module = Normed(callback)
    lightning_runs.trainer(callback).fit(module, callback.dataloader(Blobs(), min_samples=2))
    assert decides.batch_size > 8
    assert decides.samples_seen == BUDGET
    layers = AdaptiveBatch(controller(), total_samples=BUDGET)
    with pytest.raises(adk.UnsupportedModelError, match="BatchNorm1d"):
        lightning_runs.trainer(layers).fit(Normed(layers), layers.dataloader(Blobs()))


def test_a_schedule_measures_nothing_and_takes_any_model() -> None:
    schedule = adk.megatron_schedule("0:6 60:12")
    decides = adk.BatchController(schedule, max_batch_size=12)
    callback = AdaptiveBatch(decides, total_samples=120)
    lightning_runs.trainer(callback).fit(Classifier(callback), callback.dataloader(Blobs()))
    assert decides.samples_seen == 120
    assert decides.batch_size == 12


GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "lightning.md"


@pytest.mark.skipif(not GUIDE.exists(), reason="no docs here: the tests run away from the sources")
def test_the_program_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    program, part = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.M)
    names: dict[str, Any] = {}
    exec(program.replace("logger=False", "logger=False, enable_progress_bar=False"), names)
    assert names["controller"].samples_seen == 5_000
    assert names["controller"].batch_size > 16
    exec(part, names)
    assert callable(names["training_step"])


# What is refused.


def _refused(match: str, module: Any = None, loader: Any = None, **options: Any) -> None:
    callback = AdaptiveBatch(controller(), total_samples=BUDGET)
    module = (module or Classifier)(callback)
    before = copy.deepcopy(module.state_dict())
    given = callback.dataloader(Blobs()) if loader is None else loader(callback)
    with pytest.raises(ValueError, match=match):
        lightning_runs.trainer(callback, **options).fit(module, given)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), "nothing was trained"
    assert "forward" not in module.net[0].__dict__, "nothing is measured any more"


def test_accumulation_is_refused() -> None:
    _refused(r"accumulate_grad_batches=4.*manual optimization", accumulate_grad_batches=4)


def test_a_loader_without_the_controller_is_refused() -> None:
    _refused(
        r"DataLoader with a BatchSampler, whose batches no controller decides on.*dataloader",
        loader=lambda _: torch.utils.data.DataLoader(Blobs(), batch_size=6),
    )


def test_a_loader_with_a_length_is_refused() -> None:
    def made(callback: AdaptiveBatch) -> Any:
        sampler = adk.AdaptiveBatchSampler(SAMPLES, callback.controller)
        return torch.utils.data.DataLoader(Blobs(), batch_sampler=sampler)

    _refused(r"AdaptiveBatchSampler.*a length by which Lightning plans", loader=made)


def test_a_loader_of_torch_is_refused_on_ranks(told: dict[str, list[Told]]) -> None:
    """By Lightning itself, which would replace its sampler."""
    for of_rank in told["a_loader_of_torch"]:
        assert of_rank.error == "TypeError"
        assert "inject a (distributed) sampler" in of_rank.message


def test_strategies_that_are_not_measured_are_refused() -> None:
    class Sharded(SingleDeviceStrategy):
        pass

    _refused("the Trainer's strategy is a Sharded", strategy=Sharded("cpu"))
    assert DDPStrategy in MEASURED


def test_several_optimizers_are_refused() -> None:
    class Two(Classifier):
        def __init__(self, adaptive: AdaptiveBatch) -> None:
            super().__init__(adaptive, micro=4)

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    _refused("2 optimizers; accepted is one", Two)


class _Twice(Classifier):
    def __init__(self, adaptive: AdaptiveBatch) -> None:
        super().__init__(adaptive, micro=4)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for _ in range(2):
            self.manual_backward(self.loss(batch))


def test_passes_whose_samples_nobody_knows_are_refused() -> None:
    _refused("a second backward pass in one step", _Twice)


class _Short(_Twice):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        for part in self.adaptive.micro_batches(batch, 4):
            self.manual_backward(self.loss(part))
            break


def test_half_a_batch_is_refused() -> None:
    _refused("took 1 backward passes less", _Short)


class _Automatic(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return sum(self.loss(part) for part in self.adaptive.micro_batches(batch, 4))


def test_parts_in_automatic_optimization_are_refused() -> None:
    _refused("set self.automatic_optimization = False", _Automatic)


def test_options_that_the_sampler_stands_for_are_refused() -> None:
    callback = AdaptiveBatch(controller())
    with pytest.raises(ValueError, match="batch_size= has no meaning here, the controller says"):
        callback.dataloader(Blobs(), batch_size=4)


def test_ranks_with_other_settings_are_refused(told: dict[str, list[Told]]) -> None:
    for of_rank in told["other_settings_on_one_rank"]:
        assert of_rank.error == "ValueError"
        assert "the ranks have different samplers: seed is 0, 1" in of_rank.message


def test_a_checkpoint_of_something_else_is_refused() -> None:
    callback = AdaptiveBatch(controller())
    with pytest.raises(ValueError, match="not a state of AdaptiveBatch: it lacks controller"):
        callback.load_state_dict({})


def test_a_checkpoint_of_more_ranks_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    callback = AdaptiveBatch(controller(), total_samples=24)
    state = callback.state_dict()
    with caplog.at_level(logging.WARNING, "adadagrad_kernels"):
        callback.load_state_dict({**state, "random": [None, None]})
    assert "random numbers of 2 ranks, and 1 train now" in caplog.text
    lightning_runs.trainer(callback).fit(Classifier(callback), callback.dataloader(Blobs()))
    assert callback.controller.samples_seen == 24


def test_schedulers_that_count_steps_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Steps(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            falls = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=40)
            return [optimizer], [{"scheduler": falls, "interval": "step"}]

    callback = AdaptiveBatch(controller(), total_samples=24)
    with caplog.at_level(logging.WARNING, "adadagrad_kernels"):
        lightning_runs.trainer(callback).fit(Steps(callback), callback.dataloader(Blobs()))
    assert "LinearLR counts steps" in caplog.text


def test_the_module_is_plain_again(automatic: dict[str, Any]) -> None:
    callback = AdaptiveBatch(controller(), total_samples=24)
    module: LightningModule = Classifier(callback)
    lightning_runs.trainer(callback).fit(module, callback.dataloader(Blobs()))
    assert not any("forward" in m.__dict__ for m in module.net.modules())
