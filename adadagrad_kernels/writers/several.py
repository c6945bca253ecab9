"""Several writers that act as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType

from typing_extensions import Self

from adadagrad_kernels.writers.protocol import MetricsWriter, Value


class Writers:
    """Passes metrics on to several writers, in their order.

    An exception in one reaches the caller, and the writers after it do not get that step. All are
    closed, whatever one of them raises, the last first.

    Args:
        writers: They are closed with this one.

    Example:
        >>> import tempfile, pathlib
        >>> from adadagrad_kernels import CsvWriter, JsonlWriter
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> files = [JsonlWriter(folder / "metrics.jsonl"), CsvWriter(folder / "metrics.csv")]
        >>> with Writers(files) as writers:
        ...     writers.write({"loss": 0.5}, samples=8, step=1)
        >>> sorted(path.name for path in folder.iterdir())
        ['metrics.csv', 'metrics.jsonl']
    """

    def __init__(self, writers: Iterable[MetricsWriter]) -> None:
        self._writers = list(writers)

    def write(self, metrics: Mapping[str, Value], *, samples: int, step: int) -> None:
        """Passes the metrics of one step on."""
        for writer in self._writers:
            writer.write(metrics, samples=samples, step=step)

    def close(self) -> None:
        """Closes all."""
        with ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Each gets to see the exception: W&B marks the run by it.
        with ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.__exit__, kind, error, traceback)
