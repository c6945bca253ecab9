"""What a training is made of, as far as traps can be in it; no framework is imported for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import BatchSampler

from adadagrad_kernels.batching import AdaptiveBatchSampler
from adadagrad_kernels.integrations.unsized import UnsizedLoader


@dataclass(frozen=True)
class Loader:
    """A loader of training batches.

    Attributes:
        where: what it is of, in words.
        loader: itself.
        prepared: whether Accelerate has wrapped it.
        pads: whether Accelerate fills up its last batches with samples that were there before.
        sampler: the batch sampler inside of everything that wraps it, or None.
        smallest: the fewest samples of a batch on a process, or None where that is not known.
    """

    where: str
    loader: Any
    prepared: bool
    pads: bool
    sampler: Any
    smallest: int | None

    @property
    def is_stock(self) -> bool:
        """Whether it has torch's own batch sampler, or that of torchdata."""
        own = type(self.sampler).__module__.partition(".")[0] in ("torch", "torchdata")
        return own and isinstance(self.sampler, BatchSampler)

    @property
    def is_adaptive(self) -> bool:
        """Whether a controller decides on its sizes."""
        return isinstance(self.sampler, AdaptiveBatchSampler) or isinstance(
            self.loader, UnsizedLoader
        )


@dataclass(frozen=True)
class Part:
    """Anything else, and what it is of, in words."""

    where: str
    value: Any


@dataclass
class Parts:
    """The parts of everything that was given.

    Attributes:
        looked_at: every object that was read, in words.
        loaders: of training batches.
        models: in training.
        optimizers: torch's, unwrapped.
        schedulers: of learning rates that are stepped in every optimizer step.
        plans: schedules that a trainer will make itself, in words.
        callbacks: of the user.
        accumulation: batches to an optimizer step, of every trainer.
        micro_batches: samples that a trainer runs at once on a process.
        clips: by which norm Hugging Face's Trainer clips before its callbacks see gradients.
        by_length: trainers that plan with the length of the loaders.
        injecting: trainers that replace samplers on several processes.
        recomputing: trainers that compute the place in the data when they resume.
        installation: what the backends say of themselves, where it was asked for.
    """

    looked_at: list[str] = field(default_factory=list)
    loaders: list[Loader] = field(default_factory=list)
    models: list[Part] = field(default_factory=list)
    optimizers: list[Part] = field(default_factory=list)
    schedulers: list[Part] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)
    callbacks: list[Part] = field(default_factory=list)
    accumulation: list[Part] = field(default_factory=list)
    micro_batches: list[Part] = field(default_factory=list)
    clips: list[Part] = field(default_factory=list)
    by_length: list[str] = field(default_factory=list)
    injecting: list[str] = field(default_factory=list)
    recomputing: list[str] = field(default_factory=list)
    installation: dict[str, Any] | None = None

    def add_model(self, where: str, model: Any) -> None:
        """A model, unless it is known already."""
        if isinstance(model, nn.Module) and all(model is not part.value for part in self.models):
            self.models.append(Part(where, model))

    def add_optimizer(self, where: str, optimizer: Any) -> None:
        """An optimizer, without what Accelerate or Lightning put around it."""
        while not isinstance(optimizer, Optimizer) or type(optimizer).__name__.startswith(
            "Acceler"
        ):
            inner = getattr(optimizer, "optimizer", getattr(optimizer, "_optimizer", None))
            if inner is None or inner is optimizer:
                return
            optimizer = inner
        if all(optimizer is not part.value for part in self.optimizers):
            self.optimizers.append(Part(where, optimizer))
