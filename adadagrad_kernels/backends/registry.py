"""The backends, one record for each."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch

from adadagrad_kernels.backends import cpu, cuda, reference, triton


@dataclass(frozen=True)
class Backend:
    """An implementation of the ops.

    Attributes:
        name: by which it is asked for.
        device: the type of device whose tensors it reads; None for all of them.
        priority: ``auto`` takes the highest one of those that can run.
        module: one function for each op; ``unavailable()``, which says in a sentence why it cannot
            run here, or None; and, where it does not take all tensors, ``refuses(device, dtype)``,
            which says the same of those.
    """

    name: str
    device: str | None
    priority: int
    module: ModuleType

    def unavailable(self) -> str | None:
        """Why it cannot run here, or None."""
        reason: str | None = self.module.unavailable()
        return reason

    def reads(self, device: torch.device) -> bool:
        """Whether it is for tensors of such a device."""
        return self.device in (None, device.type)

    def obstacle(self, device: torch.device, dtype: torch.dtype, op: str) -> str | None:
        """Why it cannot run the op on such tensors, or None."""
        if not hasattr(self.module, op):
            return f"it has no kernel for {op}"
        reason = self.unavailable()
        if reason is not None:
            return reason
        if not self.reads(device):
            return f"it reads {self.device} tensors, and these are on {device.type}"
        refuses = getattr(self.module, "refuses", None)
        refusal: str | None = refuses and refuses(device, dtype)
        return refusal


#: By name, in the order in which messages list them.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("reference", None, 0, reference),
        Backend("cpu", "cpu", 1, cpu),
        Backend("cuda", "cuda", 2, cuda),
        Backend("triton", "cuda", 1, triton),
    )
}
