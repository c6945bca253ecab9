"""`metrics.jsonl`: one JSON object per line, cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from adadagrad_kernels.errors import CheckpointError
from adadagrad_kernels.files import naming


def strict(value: Any) -> Any:
    """Replaces infinities and NaN, which JSON cannot express, by null, at any depth."""
    if isinstance(value, Mapping):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    value = plain(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """Turns a scalar of numpy or torch into a Python number; anything else stays as it is."""
    return value.item() if hasattr(value, "item") else value


class MetricsFile:
    """Appends lines to a file; also a context manager that closes it.

    Args:
        path: The file. It begins empty unless `offset` is given.
        offset: How many bytes a checkpoint vouches for; what lies behind is cut off.

    Raises:
        CheckpointError: The file is shorter than `offset`.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        if offset:
            found = path.stat().st_size if path.exists() else 0
            if found < offset:
                raise CheckpointError(
                    f"{path}: found {found} bytes, but {offset} when the checkpoint was written; "
                    "the file was changed or lost: restore it, or begin the run anew"
                )
        self._path = path
        # Unbuffered: after a full disk nothing is left over that a later close would try again.
        self._file = path.open("r+b" if offset else "wb", buffering=0)
        self._file.truncate(offset)
        self._file.seek(offset)

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends one line.

        Raises:
            OSError: It could not be written, as on a full disk.
        """
        rest = json.dumps(strict(line), allow_nan=False).encode() + b"\n"
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise naming(error, self._path) from error

    def sync(self) -> int:
        """Makes the lines so far durable and returns their length in bytes.

        Raises:
            OSError: They could not be written, as on a full disk.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise naming(error, self._path) from error
        return self._file.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
