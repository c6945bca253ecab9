"""Event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adadagrad_kernels.optional import require
from adadagrad_kernels.writers.protocol import ClosingWriter, Value, with_place


class TensorBoardWriter(ClosingWriter):
    """Writes event files for TensorBoard through ``torch.utils.tensorboard``.

    TensorBoard has one horizontal axis, the step. Every metric is written under two tags,
    ``samples/<name>`` against samples and ``steps/<name>`` against steps: two sections of the page
    with the same charts, and each run one curve in each. Texts are written under ``texts/<name>``
    when they change. NaN and infinity are passed on; TensorBoard marks them.

    Args:
        folder: One folder per run; ``tensorboard --logdir`` takes a folder above several.

    Raises:
        MissingDependencyError: TensorBoard is not installed (extra ``tensorboard``).

    Example:
        >>> import tempfile
        >>> with TensorBoardWriter(tempfile.mkdtemp()) as writer:  # doctest: +SKIP
        ...     writer.write({"loss": 0.5}, samples=8, step=1)
    """

    def __init__(self, folder: str | Path) -> None:
        tensorboard = require("torch.utils.tensorboard", "the TensorBoard writer", "tensorboard")
        self._events = tensorboard.SummaryWriter(str(folder), flush_secs=10)
        self._texts: dict[str, str] = {}

    def write(self, metrics: Mapping[str, Value], *, samples: int, step: int) -> None:
        """Adds one point to the two curves of every metric."""
        for name, value in with_place(metrics, samples, step).items():
            if isinstance(value, str):
                if self._texts.get(name) != value:
                    self._events.add_text(f"texts/{name}", value, samples)
                    self._texts[name] = value
                continue
            number = float("nan") if value is None else value
            # Double precision: samples and T may be above 2^24, where float32 loses units.
            for axis, place in (("samples", samples), ("steps", step)):
                self._events.add_scalar(
                    f"{axis}/{name}", number, place, new_style=True, double_precision=True
                )

    def close(self) -> None:
        """Writes what is buffered and closes the file."""
        self._events.close()
