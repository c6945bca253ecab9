"""What the Trainer counts in steps, told to it in samples; and what its checkpoints keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState, ProgressCallback

from adadagrad_kernels.settings import require_keys


class AdaptiveBatchCallback(TrainerCallback, ExportableState):
    """Plans the steps that are left after each one, and ends epochs and training by samples.

    Args:
        trainer: an ``AdaptiveMixin``, whose batch grows.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps in ``trainer_state.json``."""
        return {"args": {}, "attributes": self._trainer.adaptive_state()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure from here on."""
        self._trainer.begin_measuring()
        self._plan(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Plan anew."""
        trainer = self._trainer
        self._plan(state)
        for callback in trainer.callback_handler.callbacks:
            bar = isinstance(callback, ProgressCallback) and callback.training_bar
            if bar:
                bar.total = state.max_steps
        size, seen = len(trainer.train_dataset), trainer.controller.samples_seen
        if seen // size > (seen - trainer.latest_total) // size:
            control.should_epoch_stop = True
        if seen >= trainer.samples:
            control.should_training_stop = True
        return control

    def _plan(self, state: Any) -> None:
        trainer = self._trainer
        state.max_steps = state.global_step + trainer.micro_batches.steps_left()
        state.epoch = trainer.controller.samples_seen / len(trainer.train_dataset)


def saved_state(stateful_callbacks: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """What a checkpoint keeps of the growing batch.

    Raises:
        ValueError: for a checkpoint without it.
    """
    found = stateful_callbacks.get(AdaptiveBatchCallback.__name__)
    if found is None:
        raise ValueError(
            f"the checkpoint {checkpoint} was saved without a growing batch, so it has no sizes "
            "and no place in the data. Way out: load its weights into the model, and train anew"
        )
    state: dict[str, Any] = found["attributes"]
    require_keys("AdaptiveTrainer", state, ("controller", "sampler", "model", "optimizer"))
    return state
