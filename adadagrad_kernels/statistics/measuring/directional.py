"""<g_i, direction> from a closure that computes the samples' losses: directional derivatives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

#: Step of the difference, relative to the parameters' norm: a compromise between the rounding of
#: float32 losses and their curvature.
STEP = 1e-3


def forward_derivatives(
    model: nn.Module, losses: Callable[[], Tensor], direction: Mapping[str, Tensor]
) -> Tensor:
    """Directional derivatives by forward mode: exact, at about two forward passes.

    Args:
        model: whose parameters change.
        losses: runs the model and returns the samples' own losses, ``[samples]``.
        direction: a tensor for each parameter that changes, by name.

    Raises:
        RuntimeError: where a layer has no forward-mode derivative.
    """
    with warnings.catch_warnings(), forward_mode(direction):
        warnings.simplefilter("ignore", DeprecationWarning)
        tangents = {
            name: (parameter, direction[name].to(parameter.dtype))
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if name in direction
        }
        shared = {id(p): (p, t) for p, t in tangents.values()}
        make_dual: Any = forward_ad.make_dual
        duals = {key: make_dual(p.detach(), t) for key, (p, t) in shared.items()}
        with _parameters(model, duals):
            values = losses()
        unpack_dual: Any = forward_ad.unpack_dual
        derivatives: Tensor | None = unpack_dual(values).tangent
    if derivatives is None:
        raise ValueError(
            "losses() does not depend on the model's parameters; run the model inside it, and "
            "return the losses of the samples, [samples]"
        )
    return derivatives.detach().double()


@contextmanager
def forward_mode(direction: Mapping[str, Tensor]) -> Iterator[None]:
    """A level of dual numbers. On a CPU attention is computed by products, which have derivatives.

    Fused attention has none. On a CPU it drops nothing out, so that products give what it gives;
    on a GPU they would drop out other elements than the step.

    Args:
        direction: for its device.

    Raises:
        RuntimeError: where a layer has no forward-mode derivative, with the way out.
    """
    on_cpu = all(tensor.device.type == "cpu" for tensor in direction.values())
    products = sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()
    try:
        with products, forward_ad.dual_level():
            yield
    except NotImplementedError as error:
        raise RuntimeError(
            f"inner products by forward mode: torch has no such derivative ({error}). Way out: "
            "statistics(losses, exact=False), a central difference; or, for attention without "
            "dropout, torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the training"
        ) from error


def difference_derivatives(
    model: nn.Module, losses: Callable[[], Tensor], direction: Mapping[str, Tensor]
) -> Tensor:
    """The same by a central difference: two forward passes, any layer, to tenths of a percent.

    Args:
        model: whose parameters change, and come back bit by bit.
        losses: as for ``forward_derivatives``.
        direction: as for ``forward_derivatives``.
    """
    parameters = {n: p for n, p in model.named_parameters() if n in direction}
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    size = sum(float(value.double().square().sum()) for value in kept.values()) ** 0.5
    length = sum(float(value.double().square().sum()) for value in direction.values()) ** 0.5
    if length == 0.0:
        return torch.zeros_like(losses().detach(), dtype=torch.float64)
    step = STEP * max(size, 1e-12) / length
    found: list[Tensor] = []
    try:
        for sign in (1, -1):
            with torch.no_grad():
                for name, parameter in parameters.items():
                    along = direction[name].to(parameter.dtype)
                    parameter.copy_(kept[name]).add_(along, alpha=sign * step)
                found.append(losses().detach().double())
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])
    derivatives: Tensor = (found[0] - found[1]) / (2 * step)
    return derivatives


@contextmanager
def _parameters(model: nn.Module, values: Mapping[int, Tensor]) -> Iterator[None]:
    """Puts tensors in place of parameters, by their identity."""
    replaced: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and id(parameter) in values:
                    replaced.append((module, name, parameter))
                    module._parameters[name] = values[id(parameter)]  # type: ignore[assignment]
        yield
    finally:
        for module, name, parameter in replaced:
            module._parameters[name] = parameter
