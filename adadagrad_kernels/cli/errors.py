"""What ends a command early."""

from __future__ import annotations


class StoppedError(RuntimeError):
    """A run stopped because a file could not be written; its last checkpoint is good."""


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """A run stopped between two steps because of a signal."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
