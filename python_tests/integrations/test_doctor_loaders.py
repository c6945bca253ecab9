"""Traps of loaders and samplers: each where it is, and gone where it is mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from torch import nn
from torch.utils.data import DataLoader

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader, skip_first_batches
from traps import Doubling, HiddenDoubling, Indices, adaptive_loader, codes, controller

import adadagrad_kernels as adk
from adadagrad_kernels import integrations

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore::UserWarning:lightning",
    "ignore:.set_vital. is deprecated:UserWarning",  # of torch, which torchdata reads
)


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
