"""One run at a time in a folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from pathlib import Path
from types import TracebackType

from adadagrad_kernels.cli.progress import warn
from adadagrad_kernels.training.errors import UsageError

NAME = "run.lock"

# The answers of file systems without locks, such as some that are mounted over a network.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class FolderLock:
    """Keeps a folder to one process; a context manager.

    The operating system holds the lock (`flock`) and releases it however the process ends, so a
    run that was killed can be resumed. The file names the process that holds it, for the message
    to the next one; it is removed on exit.

    Args:
        folder: It is made.

    Raises:
        UsageError: When entered, where another run is at work there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        while self._descriptor is None:
            self._descriptor = self._acquired()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            # Before the lock ends: afterwards the file might be that of the next run.
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _acquired(self) -> int | None:
        """Returns the locked file; None where the run before removed it in this very moment."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(descriptor)
            if not self._is_there(descriptor):
                os.close(descriptor)
                return None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise UsageError(
                f"--out {self._folder} is in use by {holder or 'another process'}: wait for its "
                "end or stop it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warn(f"{self._folder} cannot be locked ({error}): start no second run there")

    def _is_there(self, descriptor: int) -> bool:
        ours = os.fstat(descriptor)
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino)
