"""Random draws that a second pass over the same samples has to repeat."""

from __future__ import annotations

import torch


class RandomState:
    """The state of the generators from which a model on ``device`` draws, such as for dropout."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Set the generators back to where they were."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)

    def has_changed(self) -> bool:
        """Whether anything was drawn since, on the CPU or on the device."""
        now = RandomState(self._device)
        changed = not torch.equal(self._cpu, now._cpu)
        if self._cuda is not None and now._cuda is not None:
            changed |= not torch.equal(self._cuda, now._cuda)
        return changed
