"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def naming(error: OSError, path: Path) -> OSError:
    """The same error with the name of the file, which a full disk does not say.

    Example:
        >>> raise naming(OSError(28, "No space left on device"), Path("metrics.jsonl"))
        Traceback (most recent call last):
        OSError: [Errno 28] No space left on device: 'metrics.jsonl'
    """
    if error.errno is None or error.filename is not None:
        return error
    return OSError(error.errno, error.strerror, str(path))


def replace_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Writes `path` so that it is at every moment the old file or the complete new one.

    The bytes go to a temporary file in the same folder, reach the disk, and take over the name;
    then the folder itself is made durable.

    Raises:
        OSError: Something could not be written, as on a full disk; the old file is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise naming(error, path) from error
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
