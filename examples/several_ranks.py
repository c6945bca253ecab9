"""A growing batch on several processes, in a run that may be killed at any moment.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # for restarts: pytorch/pytorch#135712
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 examples/several_ranks.py FOLDER

If a process dies, torchrun starts all of them again, and the run goes on from its newest
checkpoint. The same command continues a run that was ended as a whole. On two ranks the trajectory
is bit for bit that of a run that nobody stopped, dropout and loader workers included. On another
number of ranks the run draws the same samples in the same batches.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import adadagrad_kernels as adk

loss_fn = nn.CrossEntropyLoss(reduction="sum")


def save(path: Path, parts: dict[str, Any], sampler: adk.AdaptiveBatchSampler, seen: int) -> None:
    """Rank 0 writes the state of the run, with the random generator of every rank."""
    generators: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(generators, torch.get_rng_state())
    if dist.get_rank() == 0:
        state = {name: part.state_dict() for name, part in parts.items()}
        # What the loader's workers have drawn ahead is not lost: they draw it again.
        state |= {"sampler": sampler.state_dict(consumed=seen), "generators": generators}
        unfinished = path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, path)


def load(path: Path, parts: dict[str, Any], sampler: adk.AdaptiveBatchSampler) -> None:
    """Every rank reads it."""
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    sampler.load_state_dict(state["sampler"])
    if len(state["generators"]) == dist.get_world_size():
        torch.set_rng_state(state["generators"][dist.get_rank()])


def main() -> None:
    """Train on the digits, between the meeting of the ranks and their parting."""
    parser = argparse.ArgumentParser(description="a growing batch on several processes")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--checkpoint-every", type=int, default=10, help="steps; default: 10")
    parser.add_argument("--dropout", type=float, default=0.1, help="default: 0.1")
    parser.add_argument("--workers", type=int, default=2, help="of the loader; default: 2")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / "checkpoint.pt"

    # A rank that hangs is an error on the others after this time.
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    train(arguments, path)
    # Whatever still holds the wrapper holds gloo's threads, which may abort a process at its end.
    gc.collect()
    dist.destroy_process_group()


def train(arguments: argparse.Namespace, path: Path) -> None:
    """Train, from the checkpoint at ``path`` if there is one."""
    torch.manual_seed(0)
    digits = load_digits()
    dataset = TensorDataset(torch.tensor(digits.data / 16).float(), torch.tensor(digits.target))
    layers = nn.Linear(64, 64), nn.ReLU(), nn.Dropout(arguments.dropout), nn.Linear(64, 10)
    model = DistributedDataParallel(nn.Sequential(*layers))
    torch.manual_seed(1 + dist.get_rank())  # each rank drops units of its own
    optimizer = adk.Adagrad(model.parameters(), lr=0.02)
    controller = adk.BatchController(adk.NormTest(eta=1.0), batch_size=16, max_batch_size=512)
    sampler = adk.AdaptiveBatchSampler(dataset, controller, total_samples=arguments.samples)
    parts = {"model": model, "optimizer": optimizer, "controller": controller}
    if path.exists():
        load(path, parts, sampler)
    # Of its own, or each of its iterators would take a number from the one of dropout.
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=arguments.workers, generator=generator
    )

    with adk.layer_statistics(model, when=controller.wants_test) as recorder:
        for x, y in loader:
            total = sampler.next_total(controller.samples_seen)
            optimizer.zero_grad()
            summed = loss_fn(model(x), y)
            (summed * dist.get_world_size() / total).backward()
            statistics = recorder.statistics()
            optimizer.step()
            controller.update(statistics, total)
            if controller.steps % arguments.checkpoint_every == 0:
                save(path, parts, sampler, controller.samples_seen)
    save(path, parts, sampler, controller.samples_seen)
    if dist.get_rank() == 0:
        print(f"{controller.samples_seen} samples in {controller.steps} steps")


if __name__ == "__main__":
    main()
