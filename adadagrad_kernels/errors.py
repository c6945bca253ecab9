"""Exceptions of the package; all derive from the built-in that callers would expect."""

from __future__ import annotations


class BackendUnavailableError(RuntimeError):
    """A backend or instruction set was asked for by name and cannot run here."""


class UnsupportedModelError(ValueError):
    """The model has no per-sample gradient, as with BatchNorm in training."""


class MissingStatisticError(ValueError):
    """A criterion needs a statistic that the source was not asked to measure."""


class DataFormatError(ValueError):
    """A data file is missing, truncated or not in the format its name promises."""


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, of another run or of another version."""


class MissingDependencyError(RuntimeError):
    """A module of an optional extra is not installed."""


def class_named(name: str) -> type[Exception]:
    """The class of another process's error: one of these, ValueError, or RuntimeError."""
    known = globals().get(name) or {"ValueError": ValueError}.get(name)
    return known if isinstance(known, type) and issubclass(known, Exception) else RuntimeError
