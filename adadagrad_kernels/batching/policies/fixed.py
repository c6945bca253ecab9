"""One size for the whole run."""

from __future__ import annotations

from typing import Any

from adadagrad_kernels.batching.policies.policy import BatchSizePolicy


class FixedSize(BatchSizePolicy):
    """Suggests nothing."""

    @classmethod
    def takes(cls, given: Any) -> bool:
        """None."""
        return given is None

    @property
    def settings(self) -> None:
        """There are none."""
        return None
