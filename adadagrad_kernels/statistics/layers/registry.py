"""What measures a module: the runner of a kind of layer, or a formula that a user registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.shards import is_sharded, kind_of, local
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.stand_ins import owner_of
from adadagrad_kernels.statistics.measuring.uses import Part


@dataclass(frozen=True, eq=False)
class Layer:
    """A module with parameters of its own.

    Attributes:
        name: path and type, for messages.
        module: the module.
        forward: its own forward.
        own: its own parameters that require grad, by their name in the module.
        held: names of those that a layer inside also has, which may be the one that uses them.
    """

    name: str
    module: Any
    forward: Callable[..., Any]
    own: dict[str, nn.Parameter]
    held: frozenset[str] = frozenset()


#: Runs a layer while it is measured: called with recorder, layer and the module's arguments.
Runner = Callable[..., Any]
#: Gives the samples' contributions to the gradients of a module's parameters, by their names.
Contributions = Callable[..., dict[str, Tensor]]

_finders: list[Callable[[nn.Module], Runner | None]] = []
_registered: dict[type[nn.Module], Contributions] = {}


def finder(find: Callable[[nn.Module], Runner | None]) -> Callable[[nn.Module], Runner | None]:
    """Register a function that returns the runner of the modules it knows; one per kind."""
    _finders.append(find)
    return find


def register_layer(*kinds: type[nn.Module]) -> Callable[[Contributions], Contributions]:
    r"""Measure a kind of layer by a formula of your own, instead of ``torch.func.vmap``.

    The module runs as it is, and autograd computes its gradient. In the backward pass the function
    is called for some samples at a time, with the module, the arguments of its forward and the
    gradient of its output, for these samples alone. It returns what each of them adds to the
    gradient of every one of the module's own parameters that requires grad: :math:`h_i` with
    :math:`\sum_i h_i = \texttt{.grad}`, which ``layer_statistics`` checks.

    Args:
        kinds: classes of modules; name subclasses too, which count as other classes.

    Returns:
        A decorator for ``function(module, *args, grad_output) -> {name: [samples, *shape]}``.

    Raises:
        TypeError: for anything but a class of modules.

    Example:
        >>> import torch
        >>> from adadagrad_kernels import layer_statistics, register_layer
        >>> class Scale(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = torch.nn.Parameter(torch.ones(3))
        ...     def forward(self, inputs):
        ...         return inputs * self.factor
        >>> @register_layer(Scale)
        ... def scale(module, inputs, grad_output):
        ...     return {"factor": inputs * grad_output}
        >>> model = Scale()
        >>> with layer_statistics(model) as recorder:
        ...     model(torch.tensor([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])).sum(1).mean().backward()
        ...     recorder.statistics().sq_norms.tolist()
        [9.0, 25.0]
    """
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(
                f"register_layer takes classes of torch.nn.Module, got {kind!r}; pass the class "
                "itself, @register_layer(MyLayer)"
            )

    def decorate(function: Contributions) -> Contributions:
        _registered.update(dict.fromkeys(kinds, function))
        return function

    return decorate


def registered(module: nn.Module) -> Contributions | None:
    """The user's formula for a module of this class."""
    return _registered.get(kind_of(module))


def find_runner(module: nn.Module) -> Runner | None:
    """The runner for a module, or None where its forward is not that of a known kind."""
    if registered(module) or has_forward_of_its_own(module):
        return None
    if parametrize.is_parametrized(module) or not _has_plain_parameters(module):
        return None
    for find in _finders:
        runner = find(module)
        if runner is not None:
            return runner
    return None


def runs_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of a kind, and no subclass has changed what it computes."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def has_forward_of_its_own(module: nn.Module) -> bool:
    """Whether the instance has another forward than its class."""
    forward = module.__dict__.get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


def _has_plain_parameters(module: nn.Module) -> bool:
    """False if a hook computes them from others: pruning, older kinds of weight_norm."""
    values = (getattr(module, name, None) for name in ("weight", "bias"))
    return all(not isinstance(v, Tensor) or isinstance(v, nn.Parameter) for v in values)


def part_of(value: Tensor | None) -> Part | None:
    """A parameter that requires grad, or rows of one."""
    if value is None or not value.requires_grad:
        return None
    if isinstance(value, nn.Parameter):
        return Part(owner_of(value), 0, local(value) if is_sharded(value) else value)
    base = value._base
    if not isinstance(base, nn.Parameter):
        raise UnsupportedModelError(
            "a layer runs with tensors in place of its parameters, as under "
            "torch.func.functional_call. Ways out: call the model itself; or leave the context "
            "for such calls"
        )
    return Part(owner_of(base), int(value.storage_offset() - base.storage_offset()), value)


def computed_with(recorder: Recorder, weight: Any, bias: Any) -> tuple[Any, Any]:
    """The tensors that the layer computes with: detached, unless autograd does the work."""
    if recorder.shadow:
        return weight, bias
    return (
        None if weight is None else weight.detach(),
        None if bias is None else bias.detach(),
    )


def as_computed(inputs: Tensor) -> Tensor:
    """In the dtype that autocast computes in, so that this is what is kept, as autograd does."""
    kind = inputs.device.type
    if not torch.is_autocast_enabled(kind) or inputs.dtype == torch.float64:
        return inputs
    return inputs.to(torch.get_autocast_dtype(kind))
