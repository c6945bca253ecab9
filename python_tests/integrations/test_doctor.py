"""Every trap in the framework that it is in, found there, and gone where it is mended."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.subprocesses import output
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

import lightning_runs
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader, skip_first_batches
from lightning.pytorch import Callback
from lightning.pytorch.utilities.data import _update_dataloader
from traps import Doubling, HiddenDoubling, Indices, OneHot

import adadagrad_kernels as adk
from adadagrad_kernels import integrations
from adadagrad_kernels.integrations import checkup
from adadagrad_kernels.integrations.checkup import TRAPS, code, traps_table
from adadagrad_kernels.integrations.lightning import AdaptiveBatch
from adadagrad_kernels.integrations.samples_scheduler import SamplesScheduler

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore::UserWarning:lightning",
    "ignore:.set_vital. is deprecated:UserWarning",  # of torch, which torchdata reads
)

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "doctor.md"


def codes(*things: Any) -> list[str]:
    return [finding.code for finding in integrations.doctor(*things)]


def controller(size: int = 4, grows_at: int = 16) -> adk.BatchController:
    """Whose size doubles after some samples."""
    schedule = adk.megatron_schedule(f"0:{size} {grows_at}:{2 * size}")
    return adk.BatchController(schedule, max_batch_size=2 * size)


def adaptive_loader(data: Indices, **options: Any) -> DataLoader[int]:
    return DataLoader(data, batch_sampler=adk.AdaptiveBatchSampler(data, 4, **options))


# Traps of loaders and samplers.


def test_exposed_batch_size() -> None:
    def lost(sampler: Any) -> int:
        shards = [BatchSamplerShard(sampler(), 2, process, even_batches=True) for process in (0, 1)]
        return 48 - len({index for shard in shards for batch in shard for index in batch})

    assert lost(Doubling) == 24, "half of the samples"
    assert lost(HiddenDoubling) == 0
    data = Indices(48)
    (finding,) = integrations.doctor(DataLoader(data, batch_sampler=Doubling()))
    assert finding.code == "exposed-batch-size"
    assert finding.where == "DataLoader: Doubling.batch_size is 4"
    assert codes(DataLoader(data, batch_sampler=HiddenDoubling())) == []
    assert codes(adaptive_loader(data)) == []


def test_drop_last_stock() -> None:
    def sizes(loader: DataLoader[int], grow: Callable[[], None]) -> list[int]:
        found = []
        for batch in loader:
            found.append(len(batch))
            grow()
        return found

    loader = DataLoader(Indices(48), batch_size=4, drop_last=True)
    assert sizes(loader, partial(setattr, loader.batch_sampler, "batch_size", 8)) == [4] * 12
    decides = controller(grows_at=4)
    data = Indices(48)
    mended = DataLoader(data, batch_sampler=adk.AdaptiveBatchSampler(data, decides))
    assert sizes(mended, lambda: decides.step(decides.batch_size) and None) == [4, *[8] * 5, 4]
    loader = DataLoader(data, batch_size=4, drop_last=True)
    assert codes(loader) == ["drop-last-stock"]
    assert codes(mended) == []
    assert codes(DataLoader(data, batch_size=4)) == []


def test_batch_size_changed() -> None:
    def interrupted(loader: DataLoader[int], grow: Callable[[], object]) -> list[int]:
        """What eight batches have, of which the last three are larger."""
        seen, batches = [], iter(loader)
        for step in range(8):
            seen += next(batches).tolist()
            if step == 4:
                grow()
        return seen

    first = DataLoader(Indices(120), batch_size=4)
    seen = interrupted(first, lambda: setattr(first.batch_sampler, "batch_size", 10))
    rest = skip_first_batches(DataLoader(Indices(120), batch_size=4), 8)
    counts = Counter(seen + [int(i) for batch in rest for i in batch])
    assert sum(count - 1 for count in counts.values()) == 18, "samples that were there before"

    sizes = [4]
    samplers = [adk.AdaptiveBatchSampler(120, lambda: sizes[-1]) for _ in range(2)]
    first, again = (DataLoader(Indices(120), batch_sampler=sampler) for sampler in samplers)
    seen = interrupted(first, lambda: sizes.append(10))
    samplers[1].load_state_dict(samplers[0].state_dict())
    assert sorted(seen + [int(i) for batch in again for i in batch]) == list(range(120))
    assert codes(first) == []

    loader = DataLoader(Indices(48), batch_size=4)
    assert codes(loader) == []
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    assert codes(stateful(Indices(48), batch_size=4)) == []
    loader.batch_sampler.batch_size = 16
    assert loader.batch_size == 4, "it lies"
    (finding,) = integrations.doctor({"train": loader})
    assert finding.code == "batch-size-changed"
    assert finding.where == "train: made with batch_size=4, its sampler has 16"


def test_even_batches() -> None:
    def trained_on(loaders: list[Any]) -> Counter[int]:
        return Counter(int(i) for loader in loaders for batch in loader for i in batch)

    def prepared(**options: Any) -> list[Any]:
        made = DataLoader(Indices(20), batch_size=4)
        Accelerator(cpu=True)
        return [
            prepare_data_loader(made, None, 2, p, put_on_device=False, **options) for p in (0, 1)
        ]

    padded, uneven = prepared(even_batches=True), prepared(even_batches=False)
    assert max(trained_on(padded).values()) == 2, "the first samples count twice"
    assert set(trained_on(uneven).values()) == {1}
    assert codes(padded[0]) == ["even-batches"]
    assert codes(uneven[0]) == []
    data = Indices(20)
    shares = [adaptive_loader(data, rank=rank, world_size=2) for rank in (0, 1)]
    assert set(trained_on(shares).values()) == {1}
    assert codes(shares[0]) == []


def test_prepared_loader() -> None:
    accelerator = Accelerator(cpu=True)
    loader = adaptive_loader(Indices(20), rank=0, world_size=2)
    shard = prepare_data_loader(
        loader, None, 2, 0, put_on_device=False, even_batches=False, use_seedable_sampler=False
    )
    with pytest.raises(ValueError, match="Accelerate shares whole batches out over 2 processes"):
        list(shard)
    assert codes(shard) == ["prepared-loader"]
    assert codes(loader) == []
    accelerator.prepare(adaptive_loader(Indices(20)))
    assert codes(accelerator) == ["prepared-loader"]
    accelerator.free_memory()
    assert codes(accelerator) == []


def test_batch_norm_of_one() -> None:
    model = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3))
    stock = DataLoader(Indices(9), batch_size=4)
    *_, last = stock
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(last[:, None].float())
    tail = adaptive_loader(Indices(9))
    mended = adaptive_loader(Indices(9), min_samples=2)
    assert min(len(batch) for batch in tail) == 1
    for batch in mended:
        model(batch[:, None].float())
    for loader in (stock, tail):
        (finding,) = integrations.doctor(loader, model)
        assert finding.code == "batch-norm-of-one"
        assert finding.where == "Sequential: layer '1', with batches of DataLoader"
    assert codes(mended, model) == []
    assert codes(stock, model.eval()) == []
    assert codes(stock, nn.GroupNorm(1, 3)) == []


# Traps of schedules and optimizers.


def _decayed(optimizer: Any, after_step: Callable[[int], None]) -> float:
    """The rate at the end of 80 samples, of which 20 steps were planned."""
    decides = controller()
    while decides.samples_seen < 80:
        optimizer.step()
        samples = decides.batch_size
        decides.step(samples)
        after_step(samples)
    return float(optimizer.param_groups[0]["lr"])


def test_step_scheduler() -> None:
    def linear() -> Any:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=20)

    by_steps, inside = linear(), linear()
    assert _decayed(by_steps.optimizer, lambda _: by_steps.step()) == pytest.approx(0.4)
    by_samples = adk.SamplesLR(inside, samples_per_step=4)
    assert _decayed(inside.optimizer, by_samples.step) == pytest.approx(0.0, abs=1e-12)
    (finding,) = integrations.doctor(by_steps.optimizer, by_steps)
    assert (finding.code, finding.where) == ("step-scheduler", "LinearLR: LinearLR")
    assert codes(inside.optimizer, by_samples) == []
    assert codes(SamplesScheduler(linear(), 4, controller())) == []
    accelerator = Accelerator(cpu=True)
    assert codes(accelerator.prepare(linear())) == ["step-scheduler"]
    accelerator.free_memory()


def test_a_schedule_that_does_not_read_its_argument_counts_something_else() -> None:
    decides = controller()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    lr_lambda = torch.optim.lr_scheduler.LambdaLR
    assert codes(lr_lambda(optimizer, lambda _: 1.0 - decides.samples_seen / 80)) == []
    assert codes(lr_lambda(optimizer, lambda step: 1.0 - step / 80)) == ["step-scheduler"]


class _Callable:
    def __call__(self, step: int) -> float:
        return 1.0 / (step + 1)


@pytest.mark.parametrize(
    ("function", "reads"),
    [
        (lambda step: step * 2.0, True),
        (lambda _: 2.0, False),
        (lambda step: (lambda: step)(), True),
        (partial(lambda warmup, step: warmup, 3), False),
        (partial(lambda warmup, step: step / warmup, 3), True),
        (_Callable(), True),
        (_Callable().__call__, True),
        (abs, True),
    ],
)
def test_whether_a_function_reads_its_argument(function: Any, reads: bool) -> None:
    assert code.reads_its_argument(function) is reads


def test_named_state() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = nn.Linear(2, 1)
    named = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(3, 2)).sum().backward()
    named.step()
    mended = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mended.step()
    named.state["controller"] = {"batch_size": 8}
    with pytest.raises(KeyError):
        get_optimizer_state_dict(model, named)
    mended.param_groups[0]["batch_size"] = 8
    assert get_optimizer_state_dict(model, mended)
    assert codes(named) == ["named-state"]
    assert codes(mended) == []


# Traps of Lightning.


class _Grows(Callback):
    """Whose accumulation grows after the third batch."""

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, i: int
    ) -> None:
        if i == 2:
            trainer.accumulate_grad_batches = 4


def test_accumulation_changed() -> None:
    grows, module = _Grows(), OneHot(8)
    trainer = lightning_runs.trainer(grows, max_epochs=1)
    assert codes(trainer) == ["accumulation-changed"]
    trainer.fit(module, DataLoader(Indices(8), batch_size=1))
    assert module.stepped_along[2:4] == [{2: 1.0}, {2: 1.0, 3: 0.25}], "sample 2 counts twice"
    callback = AdaptiveBatch(controller(1, 3), total_samples=8)
    mended = OneHot(8)
    trainer = lightning_runs.trainer(callback)
    loader = callback.dataloader(Indices(8), shuffle=False)
    assert codes(trainer, loader, mended) == []
    trainer.fit(mended, loader)
    assert mended.stepped_along[-2:] == [{4: 0.5, 5: 0.5}, {6: 0.5, 7: 0.5}]
    assert codes(trainer) == []


def test_between_epochs_accumulation_may_change() -> None:
    class Schedules(Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            trainer.accumulate_grad_batches = 1 + trainer.current_epoch

    class Sets(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            setattr(trainer, "accumulate_grad_batches", 2)  # noqa: B010 - what is looked for

    assert codes(Schedules()) == []
    (finding,) = integrations.doctor(Sets())
    assert (
        finding.where == "the callback Sets assigns accumulate_grad_batches in on_train_batch_start"
    )


def test_accumulation_beside_controller() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    loader, model = adaptive_loader(Indices(32)), nn.Linear(1, 1)
    synchronised = []
    for _ in loader:
        with accelerator.accumulate(model):
            synchronised.append(accelerator.sync_gradients)
    assert synchronised == [False, False, False, True] * 2, "a step of 16 samples, not of 4"
    assert codes(accelerator, loader) == ["accumulation-beside-controller"]
    assert codes(accelerator, DataLoader(Indices(32), batch_size=4)) == []
    accelerator.gradient_accumulation_steps = 1
    assert codes(accelerator, loader) == []


class _Own(BatchSampler):
    """Torch's with sizes of its own."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.size = batch_size

    def __iter__(self) -> Any:
        indices = list(self.sampler)
        while indices:
            yield indices[: self.size]
            indices = indices[self.size :]


def test_replaced_sampler() -> None:
    data = Indices(16)
    own = _Own(SequentialSampler(data), 4, False)
    loader = DataLoader(data, batch_sampler=own)
    replaced = _update_dataloader(loader, DistributedSampler(data, 2, 0))
    own.size = 8
    assert [len(batch) for batch in loader] == [8, 8]
    assert replaced.batch_sampler is not own, "which grows"
    with pytest.raises(TypeError, match="inject a"):
        _update_dataloader(adaptive_loader(data), DistributedSampler(data, 2, 0))
    assert codes(lightning_runs.trainer(), loader) == ["exposed-batch-size", "replaced-sampler"]
    hidden = DataLoader(data, batch_sampler=HiddenDoubling())
    assert codes(lightning_runs.trainer(), hidden) == ["replaced-sampler"]
    assert codes(lightning_runs.trainer(use_distributed_sampler=False), hidden) == []


def test_planned_by_length() -> None:
    class Counts(Callback):
        """Grows as it goes, and sees which batch Lightning knows as the last."""

        def __init__(self, decides: adk.BatchController) -> None:
            self.decides, self.last = decides, [False]

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.last.append(trainer.is_last_batch)

        def on_train_batch_end(self, *_: Any) -> None:
            if self.decides.samples_seen < 64:
                self.decides.step(self.decides.batch_size)

    data = Indices(64)
    counts = Counts(controller())
    sampler = adk.AdaptiveBatchSampler(data, counts.decides)
    loader = DataLoader(data, batch_sampler=sampler)
    options = {"use_distributed_sampler": False, "max_epochs": 1}
    trainer = lightning_runs.trainer(counts, **options)
    assert codes(trainer, loader) == ["planned-by-length"]
    trainer.fit(OneHot(64), loader)
    assert trainer.num_training_batches == 16
    assert trainer.global_step == 10
    assert not any(counts.last), "the last one was not known"

    callback = AdaptiveBatch(controller(), total_samples=64)
    knows = Counts(adk.BatchController(None, batch_size=1, max_batch_size=1))
    mended = lightning_runs.trainer(callback, knows, **options)
    loader = callback.dataloader(data)
    assert codes(mended, loader) == []
    mended.fit(OneHot(64), loader)
    assert mended.global_step == 11, "the new size one step later"
    assert [i for i, last in enumerate(knows.last) if last] == [11]


def test_modules_of_lightning() -> None:
    callback = AdaptiveBatch(controller(), total_samples=64)
    assert codes(lightning_runs.Classifier(callback)) == []

    class Steps(OneHot):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            falls = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=40)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falls, **self.when}}

    Steps.when = {"interval": "step"}  # type: ignore[attr-defined]
    (finding,) = integrations.doctor(Steps(4))
    assert finding.where == "Steps.configure_optimizers(), interval='step': LinearLR"
    Steps.when = {}  # type: ignore[attr-defined]
    assert codes(Steps(4)) == [], "it counts epochs"


# The doctor itself.


def test_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {
        "backends": {"cpu": None, "cuda": "no driver"},
        "openmp": ["libgomp.so"],
    }
    monkeypatch.setattr("adadagrad_kernels.backends.describe", lambda: said)
    assert codes() == []
    said["backends"]["cpu"] = "no module _C"
    said["openmp"] = ["libgomp.so", "libiomp5.so"]
    found = integrations.doctor()
    assert [f.code for f in found] == ["no-compiled-kernels", "several-openmp"]
    assert found[0].where == "backend cpu: no module _C"
    assert found[1].where == "libgomp.so, libiomp5.so"


def test_what_it_cannot_take_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="got a int; accepted are a DataLoader, a Trainer of"):
        integrations.doctor([nn.Linear(1, 1), 3])


def test_a_module_that_asks_for_its_trainer_is_refused() -> None:
    class Asks(OneHot):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0 / self.trainer.max_steps)

    with pytest.raises(ValueError, match=r"not attached.*pass its optimizer"):
        integrations.doctor(Asks(4))


def test_a_finding_says_all() -> None:
    loader = DataLoader(Indices(8), batch_size=4, drop_last=True)
    (finding,) = integrations.doctor(loader)
    trap = next(trap for trap in TRAPS if trap.code == finding.code)
    assert finding.as_dict() == {
        "code": "drop-last-stock",
        "where": "DataLoader: BatchSampler(drop_last=True)",
        "reason": trap.reason,
        "change": trap.change,
    }
    assert all(text in str(finding) for text in finding.as_dict().values())


def test_every_trap_has_a_test_and_a_code_of_its_own() -> None:
    here = Path(__file__).parent
    tests = "".join(path.read_text(encoding="utf-8") for path in here.glob("test_doctor*.py"))
    found = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', tests))
    assert {trap.code for trap in TRAPS} <= found
    assert len({trap.code for trap in TRAPS}) == len(TRAPS)


def test_no_framework_is_imported() -> None:
    frameworks = "('lightning', 'pytorch_lightning', 'transformers', 'accelerate')"
    told = output(
        "import sys, torch\n"
        "from adadagrad_kernels import integrations\n"
        "loader = torch.utils.data.DataLoader(range(8), batch_size=4, drop_last=True)\n"
        "print(integrations.doctor(loader, torch.nn.Linear(2, 1))[0].code)\n"
        f"print([name for name in {frameworks} if name in sys.modules])"
    )
    assert told.splitlines() == ["drop-last-stock", "[]"]
    assert integrations.doctor is checkup.doctor


def test_the_page_has_the_table() -> None:
    if not PAGE.exists():
        pytest.skip("no docs here: the tests run away from the sources")
    assert traps_table() in PAGE.read_text(encoding="utf-8"), "make docs writes it"


def test_the_program_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    if not PAGE.exists():
        pytest.skip("no docs here: the tests run away from the sources")
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(program, {})
    told = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert told == ["drop-last-stock", "step-scheduler"]
