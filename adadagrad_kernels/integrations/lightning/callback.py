"""The callback: batches of the size that a controller says, measured and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from adadagrad_kernels import ranks
from adadagrad_kernels.batching import AdaptiveBatchSampler, BatchController, BatchSizeLR
from adadagrad_kernels.batching.learning_rate_rules import LearningRateRule
from adadagrad_kernels.integrations.identity import optimizer_identity, require_same
from adadagrad_kernels.integrations.lightning import checks
from adadagrad_kernels.integrations.lightning.progress import show_total
from adadagrad_kernels.integrations.lightning.step import Step
from adadagrad_kernels.integrations.measured_steps import (
    MeasuredSteps,
    require_on_nonfinite,
    require_source,
)
from adadagrad_kernels.integrations.processes import require_all_processes
from adadagrad_kernels.integrations.random_states import random_states, set_random_states
from adadagrad_kernels.integrations.samples_scheduler import SamplesScheduler
from adadagrad_kernels.integrations.unsized import UnsizedLoader
from adadagrad_kernels.settings import require_int, require_keys
from adadagrad_kernels.statistics import GradientStatistics

_logger = logging.getLogger("adadagrad_kernels")


class AdaptiveBatch(Callback):
    r"""Lets a controller decide on the size of every batch that a Lightning Trainer trains on.

    Every step draws one batch of the size that the controller says, over all ranks, and takes one
    optimizer step. Gradients are measured in the backward pass, before they are clipped. No sample
    is lost or repeated, the ranks decide alike, and a resumed run is bit for bit the one that was
    never stopped, if the data set gives the same sample for the same index.

    ``training_step`` returns, or passes to ``manual_backward``, the mean loss of its samples. Ranks
    may have one sample more than others: the gradient of each loss is weighed by
    :math:`n_r W / n` for :math:`n_r` of n samples on W ranks, which the wrapper's average turns
    into the mean over all.

    Automatic optimization takes the whole batch in one pass. In manual optimization
    ``micro_batches`` cuts it into parts, whose number grows with the batch.

    Lightning looks one batch ahead to know the last one, so a new size arrives one step late (with
    workers, as many more as they draw ahead).

    Args:
        controller: decides on the sizes.
        total_samples: a budget, at which training stops; passes over the data follow each other in
            a single epoch of Lightning's. None: an epoch is one pass, and the Trainer's
            ``max_epochs`` counts them.
        seed: of the order of the samples.
        statistics: ``"layers"`` for ``layer_statistics``, of every sample; ``"micro_batches"`` for
            ``MicroBatchGradients``, of the parts of a batch on all ranks, two at least, for any
            model (BatchNorm) at almost no cost.
        on_nonfinite: gradients that are not finite are an error on all ranks, ``"raise"``, but
            under the scaler of float16, which leaves such a step out; with ``"record"`` the size
            stays, and the Trainer goes on.
        lr_rule: what another size does to the learning rate, as for ``BatchSizeLR``; None: nothing.
        losses: from the module and this rank's batch, the losses of its samples, ``[samples]``, for
            criteria that read inner products, over several ranks or micro-batches.

    Raises:
        ValueError: in ``fit``, where the Trainer accumulates gradients, shards parameters, trains
            on another loader, with several optimizers or with another one than the resumed run;
            naming the way out.

    Example:
        >>> import adadagrad_kernels as adk
        >>> from adadagrad_kernels.integrations.lightning import AdaptiveBatch
        >>> controller = adk.BatchController(adk.NormTest(0.5), batch_size=8, max_batch_size=64)
        >>> adaptive = AdaptiveBatch(controller, total_samples=30_000)
        >>> # trainer = Trainer(callbacks=[adaptive], ...)
        >>> # trainer.fit(module, adaptive.dataloader(dataset))
    """

    def __init__(
        self,
        controller: BatchController,
        *,
        total_samples: int | None = None,
        seed: int = 0,
        statistics: str = "layers",
        on_nonfinite: str = "raise",
        lr_rule: str | LearningRateRule | None = None,
        losses: Callable[[LightningModule, Any], Tensor] | None = None,
    ) -> None:
        self.controller = controller
        self._first_size = controller.batch_size
        self.total_samples = total_samples
        if total_samples is not None:
            self.total_samples = require_int("total_samples", total_samples, at_least=1)
        self.seed: int = require_int("seed", seed, at_least=0)
        require_source(statistics, controller)
        require_on_nonfinite(on_nonfinite)
        self._on_nonfinite = on_nonfinite
        self._source, self._lr_rule, self._losses = statistics, lr_rule, losses
        self._lr_gain: BatchSizeLR | None = None
        self._loader: UnsizedLoader | None = None
        self._steps: MeasuredSteps | None = None
        self._contexts, self._backward = ExitStack(), ExitStack()  # of the run, of a backward pass
        self._step: Step | None = None
        self._statistics: GradientStatistics | None = None
        # Behind the latest step; of a checkpoint, until they are put back.
        self._random: dict[str, Any] | None = None
        self._place: Mapping[str, Any] | None = None
        self._lr_state: Mapping[str, Any] | None = None
        self._resumed = False
        self._optimizer: dict[str, Any] | None = None
        self._saved_optimizer: dict[str, Any] | None = None

    # What the user calls.

    def dataloader(
        self, dataset: Dataset[Any], *, shuffle: bool = True, min_samples: int = 1, **options: Any
    ) -> UnsizedLoader:
        """The batches to train on, for ``fit`` or from ``train_dataloader``; without a length.

        Args:
            dataset: with a length.
            shuffle: False draws in the order of the data set.
            min_samples: fewest samples of a rank in a batch; 2 with BatchNorm.
            options: of ``DataLoader``, such as ``num_workers`` and ``collate_fn``.

        Raises:
            ValueError: for an option that the controller or the sampler stands for.
        """
        if self._loader is not None and self._loader.batches is not None:
            self._place = self._loader.batches.state_dict(self.controller.samples_seen)
        make = partial(
            AdaptiveBatchSampler,
            dataset,  # type: ignore[arg-type]
            self.controller,
            seed=self.seed,
            shuffle=shuffle,
            total_samples=self.total_samples,
            min_samples=min_samples,
        )
        self._loader = UnsizedLoader(
            dataset,
            make,
            self._begin,
            seed=self.seed,
            min_samples=min_samples,
            options=options,
        )
        return self._loader

    def lr_scheduler(self, scheduler: LRScheduler, samples_per_step: int) -> dict[str, Any]:
        """What ``configure_optimizers`` returns for a scheduler that shall count samples.

        Args:
            scheduler: any of torch's, with all its times in units of ``samples_per_step``.
            samples_per_step: samples per step of it.
        """
        ours = SamplesScheduler(scheduler, samples_per_step, self.controller)
        return {"scheduler": ours, "interval": "step"}

    def micro_batches(self, batch: Any, size: int) -> Iterator[Any]:
        """Cut this rank's batch into parts, for manual optimization; equally many on every rank.

        Call ``manual_backward`` once for each, with its mean loss. Ranks wait for each other in
        the last one alone.

        Args:
            batch: as ``training_step`` gets it.
            size: the most samples of a part; 2 or more on several ranks.

        Raises:
            ValueError: outside of ``training_step``, with automatic optimization, or for a batch
                in which nothing has its samples.
        """
        return self._require_step("micro_batches(batch, size)").parts(batch, size)

    # What Lightning calls.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a Trainer that cannot be measured."""
        if stage == "fit":
            checks.require_trainer(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure from here on."""
        way_out = "Trainer(strategy='ddp', devices=...), which starts them"
        require_all_processes("the Trainer", trainer.world_size, way_out)
        checks.require_loader(trainer.train_dataloader, self._loader)
        checks.require_one_optimizer(trainer)
        self._require_saved_optimizer(trainer)
        checks.warn_of_step_schedulers(trainer)
        if self._lr_rule is not None:
            self._lr_gain = BatchSizeLR(
                trainer.optimizers[0], self._lr_rule, batch_size=self._first_size
            )
            self._contexts.callback(self._lr_gain.remove)
            if self._lr_state is not None:
                self._lr_gain.load_state_dict(self._lr_state)
        model = trainer.strategy.model  # in its wrapper, where there is one
        model = pl_module if model is None else model
        self._steps = MeasuredSteps(
            model,
            self.controller,
            self._source,
            on_nonfinite=self._on_nonfinite,
            skips=getattr(trainer.precision_plugin, "scaler", None) is not None,
        )
        self._contexts.enter_context(self._steps)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step: the samples of all ranks in it, and random numbers as they were."""
        assert self._loader is not None
        assert self._loader.batches is not None
        assert self._steps is not None
        if self._resumed and self._random is not None:
            set_random_states(self._random)
        self._resumed = False
        total = self._loader.batches.next_total(self.controller.samples_seen)
        self._steps.begin(total)
        self._step = Step(trainer, batch, total)
        if self._lr_gain is not None:
            self._lr_gain.update(total)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Weigh the gradient of a loss by its share of the samples."""
        assert self._steps is not None
        samples = self._require_step("a backward pass").weigh(loss)
        self._backward.enter_context(self._steps.micro_batch(samples))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Once the gradient is whole: test and count, before it is clipped and stepped along."""
        step = self._require_step("a backward pass")
        self._backward.close()
        if not step.left:
            self._statistics = self._measure(step, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log, and stop at the budget."""
        step = self._require_step("the end of a batch")
        if step.skipped:  # training_step returned None: nothing was learned from the batch
            self.controller.step(step.total)
        else:
            step.require_whole()
        if self._lr_gain is not None:
            self._lr_gain.update(step.total, self._statistics)
        self._statistics = None
        metrics = {"batch/used": float(step.total), **self.controller.metrics()}
        if self._lr_gain is not None:
            metrics["lr/gain"] = self._lr_gain.gain
        shown = {"batch/global": metrics.pop("batch/global")}
        pl_module.log_dict(metrics, batch_size=step.share)
        pl_module.log_dict(shown, prog_bar=True, batch_size=step.share)
        left = self._samples_left()
        if self.total_samples is not None and not left:
            trainer.should_stop = True
        show_total(trainer, batch_idx + 1, left, self.controller.batch_size)
        self._random = random_states()
        self._step = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Random numbers of training are its own: a validation in between changes none."""
        between = trainer.state.fn == "fit" and not trainer.sanity_checking and not self._resumed
        if self._random is not None and between:
            set_random_states(self._random)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure no more."""
        if self._lr_gain is not None:
            self._lr_state = self._lr_gain.state_dict()
        self._contexts.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Measure no more; say so where another optimizer's state has failed to load."""
        how = type(exception), exception, exception.__traceback__
        self._step = None
        try:
            with self._contexts:
                self._backward.__exit__(*how)
                raise exception
        except BaseException as found:
            # Another rank's, as which this one is raised: Lightning has yet to clean up.
            if found is not exception:
                exception.args = (f"{found} (here: {exception})",)
        if trainer.optimizers:
            self._require_saved_optimizer(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The controller, the place in the data, and every rank's random numbers.

        All ranks call it, as Lightning does in ``save_checkpoint``.
        """
        sampler = None if self._loader is None else self._loader.batches
        place = self._place
        if sampler is not None:
            place = sampler.state_dict(self.controller.samples_seen)
        everyone: list[Any] = [self._random]
        if ranks.world_size() > 1:
            everyone = [None] * ranks.world_size()
            dist.all_gather_object(everyone, self._random)
        return {
            "controller": self.controller.state_dict(),
            "sampler": place,
            "lr_gain": None if self._lr_gain is None else self._lr_gain.state_dict(),
            "random": everyone,
            "optimizer": self._optimizer,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint; ``fit`` puts back what it needs before the first step."""
        keys = "controller", "sampler", "lr_gain", "random", "optimizer"
        require_keys("AdaptiveBatch", state_dict, keys)
        self.controller.load_state_dict(state_dict["controller"])
        self._place, self._lr_state = state_dict["sampler"], state_dict["lr_gain"]
        self._saved_optimizer = state_dict["optimizer"]
        everyone = state_dict["random"]
        self._random, self._resumed = None, True
        if len(everyone) == ranks.world_size():
            self._random = everyone[ranks.own_rank()]
        else:
            _logger.warning(
                "the checkpoint has random numbers of %d ranks, and %d train now: dropout will "
                "not be that of the saved run",
                len(everyone),
                ranks.world_size(),
            )

    # Inside.

    def _require_saved_optimizer(self, trainer: Trainer) -> None:
        self._optimizer = optimizer_identity(trainer.optimizers[0])
        if self._saved_optimizer is not None:
            require_same("optimizer", self._saved_optimizer, self._optimizer)

    def _begin(self, sampler: AdaptiveBatchSampler) -> int:
        """Put a sampler behind the samples that were trained on."""
        consumed = self.controller.samples_seen
        if self._place is not None:
            sampler.load_state_dict(self._place)
            self._place = None
        else:
            sampler.rewind(consumed)
        return consumed

    def _require_step(self, what: str) -> Step:
        if self._step is None:
            raise ValueError(f"{what} belongs into a training_step that the Trainer runs")
        return self._step

    def _measure(self, step: Step, module: LightningModule) -> GradientStatistics | None:
        assert self._steps is not None
        assert step.loss is not None
        scaler = getattr(module.trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        loss = None
        if self.controller.wants_test(step.total):
            if module.trainer.world_size > 1:
                ranks.Ranks().add_up(step.loss)
            loss = step.loss.item() / scale
        losses = None
        if self._losses is not None and self._steps.needs_losses:
            losses = partial(self._losses, module, step.batch)
        return self._steps.end(loss, grad_scale=scale, losses=losses)

    def _samples_left(self) -> int:
        """To the end of the budget, or of the epoch."""
        assert self._loader is not None
        assert self._loader.batches is not None
        seen = self.controller.samples_seen
        if self.total_samples is not None:
            return max(self.total_samples - seen, 0)
        return -seen % self._loader.batches.size
