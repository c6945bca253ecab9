"""The steps of a loop of the user's own, each over one batch of the size that a controller says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adadagrad_kernels.batching import AdaptiveBatchSampler, BatchController, SamplesLR
from adadagrad_kernels.batching.controller_state import load_all
from adadagrad_kernels.integrations.identity import (
    model_identity,
    optimizer_identity,
    require_same,
)
from adadagrad_kernels.integrations.measured_steps import (
    SOURCES,
    MeasuredSteps,
)
from adadagrad_kernels.integrations.micro_batch_sampler import MicroBatchSampler
from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.settings import require_keys
from adadagrad_kernels.shared_errors import shared_errors
from adadagrad_kernels.wrappers import unwrapped

#: From the micro-batches of a step, in order, to the losses of their samples, ``[samples]``.
Losses = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Framework:
    """What a library of training loops does for a step.

    Attributes:
        backward: runs the backward pass of a loss.
        no_sync: a context in which ranks do not wait for each other.
        to_device: moves a micro-batch to where the model is.
        grad_scale: by which it multiplies losses, at present.
        skips: whether it leaves out steps whose gradients are not finite, as in float16.
        measured: the model whose layers are measured, and who reduces its gradients.
    """

    backward: Callable[[Tensor], object]
    no_sync: Callable[[], contextlib.AbstractContextManager[Any]]
    to_device: Callable[[Any], Any]
    grad_scale: Callable[[], float]
    skips: bool
    measured: tuple[nn.Module, str | Ranks]


class AdaptiveStep:
    """One step: iterate over its micro-batches, and call ``backward`` with the loss of each.

    Behind the last of them ``.grad`` is the mean gradient of the batch, it is measured, and the
    size of the next batch is decided. Then clip, step and clear the gradients as usual.

    Attributes:
        samples: of the batch, over all ranks.
        loss: such that its mean over the ranks is the mean loss of the batch; a tensor.
    """

    def __init__(self, steps: AdaptiveSteps, parts: Iterator[Any], measured: MeasuredSteps) -> None:
        self._steps, self._parts, self._measured = steps, parts, measured
        self._kept: list[Any] = []
        self._open: int | None = None
        self._first = next(parts)
        self.samples: int
        self.samples, self._sizes = steps.micro_batches.coming()
        self.loss: Tensor = torch.zeros((), device="cpu")
        measured.begin(self.samples)

    def __iter__(self) -> Iterator[Any]:
        framework = self._steps.framework
        if self._kept or self._open is not None:
            raise ValueError("the micro-batches of a step are given out once; keep them in a list")
        for place, size in enumerate(self._sizes):
            part = framework.to_device(self._first if place == 0 else next(self._parts))
            self._kept.append(part if self._steps.losses is not None else None)
            last = place == len(self._sizes) - 1
            with (
                contextlib.nullcontext() if last else framework.no_sync(),
                self._measured.micro_batch(size),
            ):
                self._open = size
                yield part
                if self._open is not None:
                    raise ValueError(_missing(place, len(self._sizes)))
        with shared_errors():
            self._end()

    def backward(self, loss: Tensor) -> None:
        """The backward pass of the latest micro-batch.

        Args:
            loss: the mean of the losses of its samples, a scalar.

        Raises:
            ValueError: for a second call in one micro-batch, and for a loss that is no scalar.
        """
        if self._open is None:
            raise ValueError(
                "backward(loss) belongs once into the loop over the micro-batches of a step: "
                "for micro_batch in step: step.backward(loss_of(micro_batch))"
            )
        if loss.dim() != 0:
            raise ValueError(
                f"the loss of a micro-batch is the mean over its samples, a scalar; got shape "
                f"{tuple(loss.shape)}: use .mean()"
            )
        weight = self._open * self._steps.batches.world_size / self.samples
        self._open = None
        weighed = loss * weight
        with shared_errors():
            self._steps.framework.backward(weighed)
        self.loss = self.loss.to(loss.device) + weighed.detach()

    def metrics(self) -> dict[str, float]:
        """Flat numbers for a log: the loss of this rank, the samples, what the controller knows."""
        steps = self._steps
        rate = {} if steps.scheduler is None else {"lr": float(steps.scheduler.get_last_lr()[0])}
        return {
            "loss": float(self.loss),
            "batch/used": float(self.samples),
            **rate,
            **steps.controller.metrics(),
        }

    @property
    def is_done(self) -> bool:
        """Whether every micro-batch had its backward pass."""
        return len(self._kept) == len(self._sizes) and self._open is None

    def _end(self) -> None:
        losses = self._steps.losses
        again = None if losses is None else partial(_all_losses, losses, self._kept)
        self._measured.end(self.loss, grad_scale=self._steps.framework.grad_scale(), losses=again)


class AdaptiveSteps:
    """The steps of a training loop; see ``adaptive_steps`` of the library.

    Attributes:
        controller: decides on the sizes.
        batches: the sampler of the batches.
        micro_batches: that of their micro-batches.
        scheduler: counts samples, or None.
    """

    def __init__(
        self,
        framework: Framework,
        dataset: Any,
        controller: BatchController,
        *,
        micro_batch_size: int,
        samples: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        statistics: str = "layers",
        on_nonfinite: str = "raise",
        scheduler: SamplesLR | None = None,
        optimizer: Any = None,
        losses: Losses | None = None,
        **loader: Any,
    ) -> None:
        if not hasattr(dataset, "__len__"):
            raise ValueError(
                f"the data set is {dataset!r}; accepted is one with a length, from which samples "
                "are drawn by their index"
            )
        if scheduler is not None and not isinstance(scheduler, SamplesLR):
            raise ValueError(
                f"the scheduler is a {type(scheduler).__name__}, which counts steps; pass "
                "SamplesLR(scheduler, samples_per_step)"
            )
        self.framework: Framework = framework
        self.controller: BatchController = controller
        self.scheduler: SamplesLR | None = scheduler
        self.losses: Losses | None = losses
        self._optimizer = optimizer
        model, ranks = framework.measured
        self._measured = MeasuredSteps(
            model, controller, statistics, ranks, on_nonfinite=on_nonfinite, skips=framework.skips
        )
        self.batches: AdaptiveBatchSampler = AdaptiveBatchSampler(
            dataset, controller, seed=seed, shuffle=shuffle, total_samples=samples
        )
        self.micro_batches: MicroBatchSampler = MicroBatchSampler(
            self.batches,
            controller,
            micro_batch_size,
            fewest=SOURCES[statistics] if controller.reads_statistics else 1,
        )
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self.micro_batches,
            # Of its own: drawn from torch's, a resumed run would draw once more.
            generator=torch.Generator().manual_seed(seed + self.batches.rank),
            **loader,
        )

    def __iter__(self) -> Iterator[AdaptiveStep]:
        """Steps to the end of the budget, or of an epoch where there is none."""
        self.batches.rewind(self.controller.samples_seen)
        parts = iter(self._loader)
        with self._measured:
            while True:
                self._follow()
                try:
                    step = AdaptiveStep(self, parts, self._measured)
                except StopIteration:
                    return
                yield step
                if not step.is_done:
                    raise ValueError(
                        "a step ended before its micro-batches did; iterate over all of them, "
                        "and call step.backward(loss) for each"
                    )

    def state_dict(self) -> dict[str, Any]:
        """The controller, the place in the data, the scheduler, and whose they are."""
        return {
            "controller": self.controller.state_dict(),
            "sampler": self.batches.state_dict(self.controller.samples_seen),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            **self._identities(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state_dict``: iterate anew.

        Raises:
            ValueError: for a state of another model, optimizer, criterion, data set or scheduler;
                nothing here has changed then.
        """
        keys = "controller", "sampler", "scheduler", "model", "optimizer"
        require_keys("adaptive_steps", state, keys)
        for what, given in self._identities().items():
            if None not in (given, state[what]):
                require_same(what, state[what], given)
        parts: list[tuple[Any, Any]] = [
            (self.controller, state["controller"]),
            (self.batches, state["sampler"]),
        ]
        if (self.scheduler is None) != (state["scheduler"] is None):
            raise ValueError(
                f"the saved run had {'no' if state['scheduler'] is None else 'a'} scheduler=, and "
                f"this one has {'none' if self.scheduler is None else 'one'}; resume with the same"
            )
        if self.scheduler is not None:
            parts.append((self.scheduler, state["scheduler"]))
        load_all(parts)

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self.controller.samples_seen / self.batches.size

    def steps_left(self) -> int:
        """Steps to the end of the iteration at the present batch size."""
        return self.micro_batches.steps_left()

    def _identities(self) -> dict[str, Any]:
        model, _ = unwrapped(self.framework.measured[0])
        return {"model": model_identity(model), "optimizer": optimizer_identity(self._optimizer)}

    def _follow(self) -> None:
        """Move the learning rate on by the samples of the latest step, which has ended."""
        if self.scheduler is not None:
            passed = self.controller.samples_seen - self.scheduler.samples_seen
            if passed > 0:
                self.scheduler.step(passed)


def _all_losses(losses: Losses, parts: list[Any]) -> Tensor:
    return torch.cat([losses(part) for part in parts])


def _missing(place: int, count: int) -> str:
    return (
        f"micro-batch {place + 1} of {count} had no backward pass; call step.backward(loss) in "
        "the loop over them"
    )
