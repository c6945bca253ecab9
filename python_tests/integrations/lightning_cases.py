"""Trainings that every rank of a world takes part in: run by ``support.ranks``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import lightning_runs
import torch
import torch.distributed as dist
from lightning_runs import Classifier, fit
from torch import Tensor
from torch.utils.data import DataLoader

import adadagrad_kernels as adk
from adadagrad_kernels.integrations.lightning import AdaptiveBatch


def _shared_folder() -> Path:
    """One folder for all ranks."""
    made = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(made)
    return Path(str(made[0]))


def automatic() -> Any:
    return fit()


def in_parts() -> Any:
    return fit(micro=4)


def by_inner_products() -> Any:
    return fit(
        micro=4,
        criterion=adk.InnerProductTest(0.5),
        adaptive={"losses": lightning_runs.losses},
    )


def resumed() -> Any:
    """With dropout, in parts, with workers, saved in the middle of an epoch."""
    return [_resumed(micro, workers) for micro, workers in ((0, 0), (4, 1))]


def resumed_where_buckets_stay() -> Any:
    """On more than two ranks buckets that are laid out anew sum up in another order."""
    strategy = "ddp_find_unused_parameters_true"
    return [_resumed(micro, workers, strategy=strategy) for micro, workers in ((0, 0), (4, 1))]


def _resumed(micro: int, workers: int, **more: Any) -> Any:
    folder = _shared_folder()
    options: dict[str, Any] = {"dropout": 0.2, "micro": micro, **more}
    options["loader"] = {"num_workers": workers}
    options |= {"limit_val_batches": 1, "check_val_every_n_epoch": None, "val_check_interval": 5}
    whole = fit(**options, folder=folder, save_at=10)
    again = fit(**options, resume=folder / "at-step=10.ckpt")
    return whole, again


def other_settings_on_one_rank() -> Any:
    return fit(adaptive={"seed": dist.get_rank()})


def a_loader_of_torch() -> Any:
    """Whose sampler Lightning replaces on several ranks."""
    callback = AdaptiveBatch(lightning_runs.controller())
    module = lightning_runs.Classifier(callback)
    sampler = adk.AdaptiveBatchSampler(lightning_runs.SAMPLES, callback.controller)
    loader = DataLoader(lightning_runs.Blobs(), batch_sampler=sampler)
    lightning_runs.trainer(callback).fit(module, loader)


class _Spoilt(Classifier):
    """Not finite on the last rank, in the fourth step."""

    def loss(self, batch: Any) -> Tensor:
        is_last = dist.get_rank() == dist.get_world_size() - 1
        value = super().loss(batch)
        return value * torch.nan if is_last and self.adaptive.controller.steps == 3 else value


def _spoilt(micro: int, **options: Any) -> Any:
    callback = AdaptiveBatch(lightning_runs.controller(), total_samples=60, **options)
    module = _Spoilt(callback, micro=micro)
    said = "no error"
    try:
        lightning_runs.trainer(callback).fit(module, callback.dataloader(lightning_runs.Blobs()))
    except ValueError as error:
        said = str(error)
    finite = all(bool(p.isfinite().all()) for p in module.parameters())
    return said, callback.controller.steps, callback.controller.nonfinite_steps, finite


def not_a_number() -> Any:
    return [_spoilt(0), _spoilt(4), _spoilt(4, statistics="micro_batches")]


def not_a_number_that_is_recorded() -> Any:
    return _spoilt(0, on_nonfinite="record")


CASES = [
    automatic,
    in_parts,
    by_inner_products,
    resumed,
    other_settings_on_one_rank,
    a_loader_of_torch,
    not_a_number,
    not_a_number_that_is_recorded,
]
