"""The states of random generators, so that a second pass can repeat the draws of the first."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class RandomState:
    """The state of the generators from which a model on ``device`` draws, such as for dropout.

    These are torch's on the CPU and on the device, Python's, and numpy's where it is loaded.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._python = random.getstate()
        self._numpy = _numpy_random().get_state() if _numpy_random() else None

    def restore(self) -> None:
        """Set the generators back to where they were."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
        random.setstate(self._python)
        if self._numpy is not None:
            _numpy_random().set_state(self._numpy)

    def has_changed(self) -> bool:
        """Whether anything was drawn since."""
        return not self.same_as(RandomState(self._device))

    def same_as(self, other: RandomState) -> bool:
        """Whether the next draws are the same."""
        tensors = [(self._cpu, other._cpu)]
        if self._cuda is not None and other._cuda is not None:
            tensors.append((self._cuda, other._cuda))
        same = all(torch.equal(*pair) for pair in tensors) and self._python == other._python
        if self._numpy is None or other._numpy is None:
            return same
        pairs = zip(self._numpy, other._numpy, strict=True)
        return same and all(
            bool((one == their).all()) if hasattr(one, "all") else one == their
            for one, their in pairs
        )


def with_same_draws(function: Callable[[], Result], device: torch.device) -> Callable[[], Result]:
    """The function as it runs now: with the same draws in every call, none of which stay drawn."""
    state = RandomState(device)

    def repeated() -> Result:
        state.restore()
        try:
            return function()
        finally:
            state.restore()

    return repeated


def _numpy_random() -> Any:
    """``numpy.random`` if it is loaded; a program that has not loaded it draws nothing from it."""
    return sys.modules.get("numpy.random")
