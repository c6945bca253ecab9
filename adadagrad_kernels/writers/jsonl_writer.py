"""A JSON object per line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adadagrad_kernels.writers.metrics_file import MetricsFile
from adadagrad_kernels.writers.protocol import ClosingWriter, Value, with_place


class JsonlWriter(ClosingWriter):
    """Writes one JSON object per line, as ``adadagrad-kernels report`` reads it.

    NaN and infinity become ``null``: JSON cannot say them. Every line reaches the operating
    system before ``write`` returns.

    Args:
        path: The file. It begins empty unless ``offset`` is given; its folder is made.
        offset: Bytes to keep, as returned by an earlier ``sync``; what lies behind is cut off.

    Raises:
        CheckpointError: The file is shorter than ``offset``.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> with JsonlWriter(path) as writer:
        ...     writer.write({"loss": 0.5, "gns": float("inf")}, samples=8, step=1)
        >>> print(path.read_text(), end="")
        {"samples_seen": 8, "steps": 1, "loss": 0.5, "gns": null}
    """

    def __init__(self, path: str | Path, offset: int = 0) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = MetricsFile(path, offset)

    def write(self, metrics: Mapping[str, Value], *, samples: int, step: int) -> None:
        """Appends one line."""
        self._file.write(with_place(metrics, samples, step))

    def sync(self) -> int:
        """Makes the lines so far durable and returns their length in bytes, for a checkpoint."""
        return self._file.sync()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
