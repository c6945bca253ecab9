"""Lightning's Trainer with ``AdaptiveBatch``, against a plain loop and across processes."""

from __future__ import annotations

import itertools
import math
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
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning_runs import BUDGET, SAMPLES, Blobs, Classifier, close, controller, drawn, even, fit
from support.ranks import Told, values

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.lightning import AdaptiveBatch

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


def test_it_is_the_loop_that_one_would_write(automatic: dict[str, Any]) -> None:
    weights, sizes, rates = _plain_loop()
    assert automatic["sizes"] == sizes
    assert sizes[0] == 6 < max(sizes)
    assert close(automatic["weights"], weights)
    assert automatic["rates"] == pytest.approx(rates, abs=1e-15)
    assert automatic["lr"] == pytest.approx(0.0, abs=1e-15), "at the end of the budget"
    assert automatic["steps"] == len(sizes)
    assert even(drawn([automatic]))


def test_parts_of_a_batch_are_the_batch(automatic: dict[str, Any]) -> None:
    parts = fit(micro=4)
    assert parts["sizes"] == automatic["sizes"]
    assert close(parts["weights"], automatic["weights"])
    assert parts["steps"] == automatic["steps"]


@pytest.mark.parametrize("case", ["automatic", "in_parts"])
@pytest.mark.parametrize(
    "world",
    [
        pytest.param("told", id="two"),
        pytest.param("of_four", id="four", marks=pytest.mark.nightly),
    ],
)
def test_ranks_are_one_process(
    request: pytest.FixtureRequest, automatic: dict[str, Any], world: str, case: str
) -> None:
    first, *others = of_ranks = values(request.getfixturevalue(world)[case])
    for other in others:
        assert first["weights"] == other["weights"], "to the last bit"
        assert first["controller"] == other["controller"]
    assert first["sizes"] == automatic["sizes"], "some of which the ranks cannot share evenly"
    assert any(size % len(of_ranks) for size in first["sizes"])
    assert close(first["weights"], automatic["weights"])
    assert first["rates"] == automatic["rates"]
    assert even(drawn(of_ranks))


def test_inner_products_over_ranks_and_parts(told: dict[str, list[Told]]) -> None:
    one = fit(criterion=adk.InnerProductTest(0.5))
    for of_rank in values(told["by_inner_products"]):
        assert of_rank["sizes"] == one["sizes"]
        assert max(one["sizes"]) > 6
        assert close(of_rank["weights"], one["weights"], 1e-9)


def test_a_loader_that_is_made_anew_every_epoch() -> None:
    class Makes(Classifier):
        def train_dataloader(self) -> Any:
            return self.adaptive.dataloader(Blobs())

    callback = AdaptiveBatch(controller())
    module = Makes(callback)
    made = lightning_runs.trainer(callback, max_epochs=3, reload_dataloaders_every_n_epochs=1)
    made.fit(module)
    assert set(drawn([{"seen": module.seen}]).values()) == {3}
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


def test_a_step_that_the_scaler_leaves_out_is_no_error() -> None:
    class Overflows(Classifier):
        def loss(self, batch: Any) -> torch.Tensor:
            scale = math.inf if self.adaptive.controller.steps == 3 else 1.0
            return super().loss(batch) * scale

    callback = AdaptiveBatch(controller(), total_samples=60)
    module = Overflows(callback)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    made = lightning_runs.trainer(callback, plugins=plugins)
    made.fit(module, callback.dataloader(Blobs()))
    assert callback.controller.nonfinite_steps == 1
    assert callback.controller.samples_seen == 60
    assert all(p.isfinite().all() for p in module.parameters())


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


def test_the_module_is_plain_again() -> None:
    callback = AdaptiveBatch(controller(), total_samples=24)
    module: LightningModule = Classifier(callback)
    lightning_runs.trainer(callback).fit(module, callback.dataloader(Blobs()))
    assert not any("forward" in m.__dict__ for m in module.net.modules())
