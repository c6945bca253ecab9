"""The Trainer whose batch grows, and the mixin that makes one of any of its subclasses."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adadagrad_kernels import optional, ranks
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
    require_on_nonfinite,
    require_source,
)
from adadagrad_kernels.integrations.micro_batch_sampler import MicroBatchSampler
from adadagrad_kernels.integrations.processes import require_all_processes
from adadagrad_kernels.integrations.samples_scheduler import SamplesScheduler
from adadagrad_kernels.settings import require_int

for _module in ("accelerate", "transformers"):
    optional.require(_module, "AdaptiveTrainer", extra="huggingface")

from accelerate.utils import send_to_device  # noqa: E402
from transformers import Trainer, TrainerCallback, TrainerState  # noqa: E402
from transformers.trainer_utils import get_last_checkpoint  # noqa: E402

from adadagrad_kernels.integrations.huggingface import arguments, loss_scale  # noqa: E402
from adadagrad_kernels.integrations.huggingface.callback import (  # noqa: E402
    AdaptiveBatchCallback,
    saved_state,
)
from adadagrad_kernels.integrations.huggingface.parts import Parts, Stream, rows  # noqa: E402

#: Whose methods the mixin extends.
_Methods: Any = Trainer if TYPE_CHECKING else object


class AdaptiveMixin(_Methods):
    r"""Makes any subclass of Hugging Face's Trainer grow its batch: ``class T(AdaptiveMixin, X)``.

    Every step trains on one batch of the controller's size, over all ranks, cut into micro-batches
    of ``per_device_train_batch_size`` samples. Its gradients are measured before they are clipped.
    No sample is lost or repeated, all ranks decide alike, and a resumed run is bit for bit the one
    that was never stopped, if the data set gives the same sample for the same index.

    A loss that takes ``num_items_in_batch`` is the mean over all items (tokens) of the step. Any
    other is the mean over its samples: with :math:`n_r` of the n samples of a step in a
    micro-batch, on W ranks, it is weighed by :math:`n_r W / n`.

    The learning rate follows ``lr_scheduler_type`` by samples, in steps of the first batch size:
    ``warmup_steps=100`` are a hundred batches of it. ``state.max_steps`` is the number of steps at
    the present size, ``state.epoch`` that of passes over the data. The logs have what
    ``controller.metrics()`` gives.

    Args:
        controller: decides on the sizes.
        samples: to train on in all, over all ranks; None: ``num_train_epochs`` passes.
        statistics: ``"layers"``, exact by ``layer_statistics``; ``"micro_batches"``, estimated by
            ``MicroBatchGradients`` from the micro-batches, at least four, for any model.
        on_nonfinite: gradients that are not finite are an error on all ranks, ``"raise"``, but
            under the scaler of float16, which leaves such a step out; with ``"record"`` the size
            stays, and the Trainer goes on.
        callbacks: as for the Trainer.

    Attributes:
        batches: the sampler of the batches.
        micro_batches: that of their micro-batches.
        latest_total: samples of the latest step, over all ranks.

    Raises:
        ValueError: for arguments that do not go with a batch that grows.
    """

    def __init__(
        self,
        *args: Any,
        controller: BatchController,
        samples: int | None = None,
        statistics: str = "layers",
        on_nonfinite: str = "raise",
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        require_source(statistics, controller)
        require_on_nonfinite(on_nonfinite)
        self.controller = controller
        self.latest_total: int = 0
        self._source, self._on_nonfinite = statistics, on_nonfinite
        self._steps: MeasuredSteps | None = None
        self._contexts = contextlib.ExitStack()
        self._weight: float | None = None
        self._weighed = False
        self._takes_items: bool | None = None
        self._saved_optimizer: tuple[Any, str] | None = None
        # Ahead of the user's, which then see the epoch and the plan as they are.
        ours = AdaptiveBatchCallback(self)
        super().__init__(*args, callbacks=[ours, *(callbacks or [])], **kwargs)
        arguments.require_bare(self.model)
        arguments.require_arguments(self.args)
        arguments.require_scheduler(self.lr_scheduler)
        arguments.require_saved(controller, self.args)
        if not hasattr(self.train_dataset, "__len__"):
            raise ValueError(
                f"train_dataset is {self.train_dataset!r}; accepted is a data set with a length, "
                "from which samples are drawn by their index"
            )
        # The sampler knows its place: nothing has to be loaded again to get there.
        self.args.ignore_data_skip = True
        epochs = math.ceil(self.args.num_train_epochs * len(self.train_dataset))
        asked = epochs if samples is None else samples
        self.samples: int = require_int("samples", asked, at_least=1)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.batches: AdaptiveBatchSampler = AdaptiveBatchSampler(
            self.train_dataset,
            controller,
            seed=seed,
            shuffle=arguments.shuffles(self.args),
            total_samples=self.samples,
        )
        self.micro_batches: MicroBatchSampler = MicroBatchSampler(
            self.batches,
            controller,
            self.args.per_device_train_batch_size,
            fewest=SOURCES[statistics] if controller.reads_statistics else 1,
        )
        self._fresh = copy.deepcopy(self.adaptive_state())

    # What a checkpoint keeps.

    def adaptive_state(self) -> dict[str, Any]:
        """The controller, the place in the data, and whose they are, as plain JSON types."""
        if not hasattr(self, "batches"):  # the Trainer asks while it is made
            return {}
        return {
            "controller": self.controller.state_dict(),
            "sampler": self.batches.state_dict(self.controller.samples_seen),
            "model": model_identity(self.model),
            "optimizer": optimizer_identity(self.optimizer),
        }

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains from the start, or from a checkpoint.

        Raises:
            ValueError: for a checkpoint of another model, optimizer, criterion or data set, or of
                another trainer; model and optimizer are as they were then.
        """
        found = resume_from_checkpoint
        if found is True:
            found = get_last_checkpoint(self.args.output_dir)
        state = self._fresh
        self._saved_optimizer = None
        if found:
            path = os.path.join(found, "trainer_state.json")
            saved = TrainerState.load_from_json(path).stateful_callbacks
            state = saved_state(saved, found)
            require_same("model", state["model"], model_identity(self.model), found)
            self._saved_optimizer = state["optimizer"], found
            if self.model_init is None:
                self.create_optimizer()  # which is compared before anything is loaded
        load_all([(self.controller, state["controller"]), (self.batches, state["sampler"])])
        with self._contexts:
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def begin_measuring(self) -> None:
        """Measure the steps that follow, until ``train`` ends."""
        way_out = "on machines without a GPU, TrainingArguments(use_cpu=True)"
        require_all_processes("the Trainer", self.accelerator.num_processes, way_out)
        if isinstance(self.lr_scheduler, SamplesScheduler):
            counted = self.lr_scheduler.samples.samples_seen
            if counted != self.controller.samples_seen:
                raise ValueError(
                    f"the SamplesLR has counted {counted} samples, and the controller "
                    f"{self.controller.samples_seen}; make a new one for a new run"
                )
        self._steps = MeasuredSteps(
            self.model_wrapped,
            self.controller,
            self._source,
            on_nonfinite=self._on_nonfinite,
            skips=self.accelerator.scaler is not None,
        )
        self._contexts.enter_context(self._steps)

    # What the Trainer asks for.

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """The Trainer's; refused if a checkpoint has the state of another one."""
        optimizer = super().create_optimizer(model)
        if self._saved_optimizer is not None:
            saved, checkpoint = self._saved_optimizer
            require_same("optimizer", saved, optimizer_identity(optimizer), checkpoint)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's, which counts samples in units of the first batch size."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        unit = self.controller.min_batch_size
        if isinstance(scheduler, SamplesLR):
            self.lr_scheduler: Any = SamplesScheduler.of(scheduler, self.controller)
        elif arguments.counts_steps(scheduler):
            self.lr_scheduler = SamplesScheduler(scheduler, unit, self.controller)
        return self.lr_scheduler

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """The plan, by samples: of it the Trainer takes epochs, and steps at the first size."""
        size = len(self.train_dataset)
        steps = math.ceil(self.samples / self.controller.min_batch_size)
        total = self.get_total_train_batch_size(args)
        # No epoch has more steps than samples; ours end by samples.
        return (
            math.ceil(self.samples / size),
            self.samples,
            size,
            self.samples,
            total,
            self.samples,
            steps,
        )

    def get_train_dataloader(self) -> Any:
        """This rank's micro-batches, loaded as the Trainer's own loader would; not prepared."""
        own = super().get_train_dataloader()
        workers = own.num_workers
        loader = DataLoader(
            own.dataset,
            batch_sampler=self.micro_batches,
            collate_fn=own.collate_fn,
            num_workers=workers,
            pin_memory=own.pin_memory,
            prefetch_factor=own.prefetch_factor if workers else None,
            multiprocessing_context=own.multiprocessing_context,
            # Of its own: drawn from torch's, a resumed run would draw once more.
            generator=torch.Generator().manual_seed(self.batches.seed + self.batches.rank),
        )
        stream = Stream(loader)
        self._contexts.callback(stream.close)
        return stream

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """All micro-batches of the next step, as one batch, and the number of their items."""
        first = next(epoch_iterator, None)
        if first is None:
            return [], None
        total, sizes = self.micro_batches.coming()
        inputs, items = super().get_batch_samples(
            itertools.chain([first], epoch_iterator), len(sizes), device
        )
        return [Parts(inputs, sizes, total)], items

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward pass of every micro-batch; measures, and decides."""
        assert self._steps is not None
        items = num_items_in_batch
        if items is not None and self._takes_items is None:
            self._takes_items = loss_scale.takes_items(
                self, super().compute_loss, model, inputs, items
            )
        if items is None or self._takes_items is False:
            items = None
            loss_scale.require_own_means(self, inputs)
        # The Trainer divides a mean by it, which is weighed here.
        passes = 1 if items is None else len(inputs.sizes)
        self.current_gradient_accumulation_steps: int = passes
        self._steps.begin(inputs.total)
        losses = []
        for place, (part, size) in enumerate(zip(inputs.inputs, inputs.sizes, strict=True)):
            self._weight = size * self.batches.world_size / inputs.total
            self._weighed = False
            last = place == len(inputs.sizes) - 1
            waits = contextlib.nullcontext() if last else self.accelerator.no_sync(model)
            with waits, self._steps.micro_batch(size):
                losses.append(super().training_step(model, part, items))
            self._weight = None
            if not self._weighed:
                raise TypeError(
                    f"compute_loss of {type(self).__name__} does not call super().compute_loss, "
                    "so nothing weighs the loss by its samples. Way out: a Trainer with that "
                    "compute_loss, and class T(AdaptiveMixin, ThatTrainer)"
                )
        loss = torch.stack(losses).sum()
        scaler = self.accelerator.scaler
        self._steps.end(
            loss,
            grad_scale=1.0 if scaler is None else scaler.get_scale(),
            losses=partial(self._sample_losses, inputs, items)
            if self._needs_losses(inputs)
            else None,
        )
        self.latest_total = inputs.total
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The Trainer's; in a step weighed by its samples, if it is a mean over them."""
        result = super().compute_loss(
            model,
            inputs,
            return_outputs=return_outputs,
            num_items_in_batch=num_items_in_batch,
            **kwargs,
        )
        if self._weight is None:
            return result
        self._weighed = True
        if num_items_in_batch is not None:
            return result
        return (result[0] * self._weight, result[1]) if return_outputs else result * self._weight

    def _needs_losses(self, step: Parts) -> bool:
        """Whether inner products are read, and no layer knows the mean to which they refer."""
        several = len(step.sizes) > 1 or ranks.world_size() > 1
        return several and self._steps is not None and self._steps.needs_losses

    def _sample_losses(self, step: Parts, items: Tensor | int | None) -> Tensor:
        """The losses of this rank's samples, each run by itself; their mean is the step's."""
        scale = 1.0 if items is None else step.total / ranks.world_size()
        losses = []
        with loss_scale.unlogged(self):
            for part, size in zip(step.inputs, step.sizes, strict=True):
                inputs = send_to_device(part, self.args.device)
                for sample in rows(inputs, size):
                    loss = super().compute_loss(self.model, sample, num_items_in_batch=items)
                    losses.append(loss * scale)
        return torch.stack(losses)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs what the controller knows beside the loss of training."""
        if "loss" in logs:
            logs.update({"batch/used": float(self.latest_total), **self.controller.metrics()})
        super().log(logs, *args, **kwargs)


class AdaptiveTrainer(AdaptiveMixin, Trainer):
    """Hugging Face's Trainer with a batch that grows; its arguments are those of AdaptiveMixin.

    Example:
        >>> import adadagrad_kernels as adk
        >>> from adadagrad_kernels.integrations.huggingface import AdaptiveTrainer
        >>> controller = adk.BatchController(adk.NormTest(0.5), batch_size=8, max_batch_size=512)
        >>> # trainer = AdaptiveTrainer(model, args, train_dataset=data, controller=controller)
        >>> # trainer.train()
    """
