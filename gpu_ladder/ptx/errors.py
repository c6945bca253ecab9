"""Errors that name the line of the PTX text."""


class PtxError(ValueError):
    """PTX text that the machine does not accept.

    Args:
        message: What was found, and what is accepted.
        line: Line of the PTX text, counted from 1; 0 if it is about the whole text.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"PTX line {line}: {message}" if line else message)
        self.line = line


class PtxNotImplementedError(PtxError):
    """PTX that exists, but that the machine does not execute."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"not implemented: {message}", line)
