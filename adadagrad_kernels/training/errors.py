"""What a run cannot be made of."""

from __future__ import annotations


class UsageError(ValueError):
    """Options that parse one by one but make no sense together or here."""
