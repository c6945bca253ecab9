"""Looks at a trainer, a loader or their parts, and says what goes wrong as the batch grows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from adadagrad_kernels import backends
from adadagrad_kernels.integrations.checkup.parts import Parts
from adadagrad_kernels.integrations.checkup.reading import read
from adadagrad_kernels.integrations.checkup.traps import TRAPS


@dataclass(frozen=True)
class Finding:
    """A trap that something is in.

    Attributes:
        code: which, by a name that stays the same.
        where: in what.
        reason: what it does.
        change: what to do.
    """

    code: str
    where: str
    reason: str
    change: str

    def __str__(self) -> str:
        return f"{self.code}: {self.where}. It means that {self.reason}. Change: {self.change}."

    def as_dict(self) -> dict[str, str]:
        """Its fields by name."""
        return asdict(self)


def doctor(*things: Any) -> list[Finding]:
    """What would go wrong, without an error, if the batch of a training grew.

    Nothing is trained and nothing changes. Of Hugging Face's Trainer ``get_train_dataloader`` is
    called, of a LightningModule ``configure_optimizers``. Give everything that trains together in
    one call: some traps are in two of them. Schedulers that are given alone are taken for ones
    that are stepped in every optimizer step.

    Args:
        things: DataLoaders, a Trainer of transformers or lightning, a LightningModule, an
            Accelerator, optimizers, schedulers, models, callbacks, also in tuples, lists and
            dicts, whose keys are then the names in findings. Without any, the installation.

    Returns:
        The findings, in the order of docs/guide/doctor.md; none for nothing found.

    Raises:
        ValueError: for what is none of these.

    Example:
        >>> import torch
        >>> from adadagrad_kernels import integrations
        >>> data = torch.utils.data.TensorDataset(torch.randn(10, 3))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=4, drop_last=True)
        >>> [finding.code for finding in integrations.doctor(loader)]
        ['drop-last-stock']
    """
    return findings_of(parts_of(*things))


def parts_of(*things: Any) -> Parts:
    """What the things are made of; of none, the installation."""
    parts = Parts()
    for thing in things:
        read(thing, parts)
    if not things:
        parts.looked_at.append("the installation")
        parts.installation = backends.describe()
    return parts


def findings_of(parts: Parts) -> list[Finding]:
    """What is found in them."""
    return [
        Finding(trap.code, where, trap.reason, trap.change)
        for trap in TRAPS
        for where in trap.find(parts)
    ]
