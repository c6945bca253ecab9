"""What Lightning's progress bars show of an epoch whose number of steps is not fixed."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar


def show_total(trainer: Trainer, done: int, left: int, batch_size: int) -> None:
    """Give the bar its number of steps.

    Args:
        trainer: whose bar it is.
        done: steps of this epoch.
        left: samples of it that are to come.
        batch_size: at which they are counted in steps.
    """
    total = done + math.ceil(left / batch_size)
    if trainer.max_steps >= 0:
        total = min(total, done + max(trainer.max_steps - trainer.global_step, 0))
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar):
        bar.train_progress_bar.total = total
    elif (
        isinstance(bar, RichProgressBar) and bar.progress and bar.train_progress_bar_id is not None
    ):
        bar.progress.update(bar.train_progress_bar_id, total=total)
