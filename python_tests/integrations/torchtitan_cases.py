"""torchtitan's Trainer with a batch that grows, as docs/guide/trainers.md says; run on every rank.

On a small Llama, with ``fully_shard``, in float32.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torchtitan_on_cpu  # noqa: F401 - before the others
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.llama3 import model_registry
from torchtitan.trainer import Trainer

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks

MICRO, LENGTH, WORDS, BUDGET = 2, 8, 32, 160
#: With a smaller one Adam makes whole steps of gradients that are nothing but rounding.
RATE, EPS = 0.002, 1e-2


def texts() -> Tensor:
    """Each word follows from the one before, mostly."""
    generator = torch.Generator().manual_seed(2)
    words = torch.randint(WORDS, (60, LENGTH + 1), generator=generator)
    for place in range(1, LENGTH + 1):
        follows = torch.rand(60, generator=generator) < 0.8
        words[:, place] = torch.where(follows, (words[:, place - 1] + 1) % WORDS, words[:, place])
    return words


class Draws(BaseDataLoader):
    """A micro-batch of each rank after another, and their place."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        pass

    def __init__(
        self, config: Config, *, dp_world_size: int, dp_rank: int, local_batch_size: int, **_: Any
    ) -> None:
        self.texts, self.unit, self.drawn = texts(), local_batch_size * dp_world_size, 0
        share = {"rank": dp_rank, "world_size": dp_world_size}
        self.sampler = adk.AdaptiveBatchSampler(
            self.texts, self.unit, seed=5, total_samples=BUDGET, **share
        )

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for indices in self.sampler:
            self.drawn += self.unit
            words = self.texts[indices]
            yield {"input": words[:, :-1].contiguous()}, words[:, 1:].contiguous()

    def state_dict(self) -> dict[str, Any]:
        state = self.sampler.state_dict(consumed=self.drawn)
        return {"sampler": json.dumps(state), "drawn": self.drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.sampler.load_state_dict(json.loads(state_dict["sampler"]))
        self.drawn = state_dict["drawn"]


class Words(BaseTokenizer):
    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        pass

    def __init__(self, config: Config, **_: Any) -> None:
        super().__init__()

    def encode(self, *_: Any, **__: Any) -> list[int]:
        return []

    def decode(self, *_: Any, **__: Any) -> str:
        return ""

    def get_vocab_size(self) -> int:
        return WORDS


class AdaptiveTitan(Trainer):
    """The recipe."""

    def __init__(self, config: Trainer.Config, controller: adk.BatchController, stop: int) -> None:
        self.controller, self.sizes, self.stop = controller, [], stop
        super().__init__(config)
        self.micro = config.training.local_batch_size * self.parallel_dims.get_mesh("batch").size()

    def train(self) -> None:
        settings: dict[str, Any] = {"ranks": Ranks(gradient_divisor=1)}
        settings["when"] = self.controller.wants_test
        with adk.layer_statistics(self.model_parts[0], **settings) as self.recorder:
            super().train()

    def should_continue_training(self) -> bool:
        left = BUDGET - self.controller.samples_seen
        return self.controller.batch_size <= left and self.step < self.stop

    def train_step(self, data_iterator: Any) -> None:
        size = self.controller.batch_size
        self.gradient_accumulation_steps = self.parts = size // self.micro
        super().train_step(data_iterator)
        self.controller.update(self.statistics, size)
        self.sizes.append(size)

    def forward_backward_step(self, **given: Any) -> Tensor:
        loss = super().forward_backward_step(**given)
        self.parts -= 1
        if not self.parts:  # gradients are clipped next
            self.statistics = self.recorder.statistics()
        return loss

    def state_dict(self) -> dict[str, Any]:
        state = json.dumps(self.controller.state_dict())
        return {**super().state_dict(), "controller": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.controller.load_state_dict(json.loads(state_dict["controller"]))


def by_gradients() -> adk.BatchController:
    sizes = {"batch_size": 8, "max_batch_size": 32, "round_to": 4, "growth_cap": 1.5}
    return adk.BatchController(adk.NormTest(eta=0.35), **sizes)


def settings(folder: str, *, saves: int | None = None) -> Trainer.Config:
    spec = model_registry("debugmodel")
    spec.model.layers = spec.model.layers[:1]
    spec.model.layers[0].attention.inner_attention = ScaledDotProductAttention.Config()
    training = TrainingConfig(
        local_batch_size=MICRO,
        seq_len=LENGTH,
        steps=1000,
        max_norm=0.5,
        mixed_precision_param="float32",
        disable_cuda_graphs=True,
    )
    optimizer = default_adamw(lr=RATE, eps=EPS)
    optimizer.implementation = "for-loop"
    return Trainer.Config(
        model_spec=spec,
        dump_folder=folder,
        loss=CrossEntropyLoss.Config(),
        tokenizer=Words.Config(),
        dataloader=Draws.Config(),
        optimizer=optimizer,
        lr_scheduler=LRSchedulersContainer.Config(warmup_steps=0, decay_ratio=0.0),
        training=training,
        parallelism=ParallelismConfig(spmd_backend="partial_dtensor"),
        checkpoint=CheckpointManager.Config(enable=saves is not None, interval=saves or 1),
    )


def _trained(folder: str, *, stop: int = 1000, **how: Any) -> dict[str, Any]:
    os.environ["LOCAL_RANK"] = str(dist.get_rank())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = AdaptiveTitan(settings(folder, **how), by_gradients(), stop)
        for module in trainer.model_parts[0].modules():
            if isinstance(module, FSDPModule):
                # gloo has no other that divides by 1 in float32.
                module.set_force_sum_reduction_for_comms(True)
        first = _weights(trainer)
        trainer.train()
    told = {"sizes": trainer.sizes, "steps": trainer.step, "first": first}
    told["weights"] = _weights(trainer)
    trainer.close()
    return told


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    named = trainer.model_parts[0].named_parameters()
    # torchtitan runs layers under activation checkpoints, whose wrapper adds to their names.
    whole = (
        (name.replace("_checkpoint_wrapped_module.", ""), p.full_tensor()) for name, p in named
    )
    return {name: weight.detach().clone() for name, weight in whole}


def trained() -> dict[str, Any]:
    with _shared_folder() as folder:
        return _trained(folder)


def resumed() -> list[dict[str, Any]]:
    """A run, its first five steps, and the rest from the checkpoint of the third."""
    with _shared_folder() as folder:
        whole = _trained(f"{folder}/whole", saves=3)
        stopped = _trained(f"{folder}/stopped", saves=3, stop=5)
        return [whole, stopped, _trained(f"{folder}/stopped", saves=3)]


@contextmanager
def _shared_folder() -> Iterator[str]:
    """The first rank's, on all."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [folder]
        dist.broadcast_object_list(folders)
        yield folders[0]
        dist.barrier()


CASES = [trained, resumed]
