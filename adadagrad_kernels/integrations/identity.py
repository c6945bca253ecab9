"""Whether a checkpoint is of the model and the optimizer that go on with it.

torch loads the state of an optimizer into another one without a word, where the numbers of
parameters agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import nn


def model_identity(model: nn.Module) -> dict[str, Any]:
    """What tells a model from another one: class, number of parameters, digest of their shapes."""
    named = [(name, list(p.shape), str(p.dtype)) for name, p in model.named_parameters()]
    digest = hashlib.sha256(repr(named).encode()).hexdigest()[:16]
    parameters = sum(p.numel() for p in model.parameters())
    return {"class": type(model).__name__, "parameters": parameters, "shapes": digest}


def optimizer_identity(optimizer: Any) -> dict[str, Any] | None:
    """What tells an optimizer from another one: class and number of parameters in each group."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # without Accelerate's wrapper
    if optimizer is None:
        return None
    groups = [len(group["params"]) for group in optimizer.param_groups]
    return {"class": type(optimizer).__name__, "groups": groups}


def require_same(what: str, saved: Any, given: Any, checkpoint: str = "") -> None:
    """Refuse to resume with another model or optimizer.

    Args:
        what: a model, or an optimizer.
        saved: its identity when the checkpoint was written.
        given: its identity now.
        checkpoint: the name, where it is known.

    Raises:
        ValueError: with both.
    """
    if saved != given:
        name = f"the checkpoint {checkpoint}" if checkpoint else "the checkpoint"
        raise ValueError(
            f"{name} is of another {what}: {_said(saved)}, not {_said(given)}; resume with the "
            f"{what} of the saved run"
        )


def _said(identity: Mapping[str, Any] | None) -> str:
    if identity is None:
        return "none"
    return ", ".join(f"{name} {value}" for name, value in identity.items())
