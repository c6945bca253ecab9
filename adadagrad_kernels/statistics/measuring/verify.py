"""Checks between the passes of a step, and the messages where a gradient is not the samples'."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.shards import is_sharded, local
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.problems import Problems
from adadagrad_kernels.statistics.measuring.samples import OTHER_SOURCES, unknown_shares_message
from adadagrad_kernels.statistics.measuring.shared_uses import COARSE_TOLERANCE, TOLERANCE
from adadagrad_kernels.statistics.measuring.uses import Part

#: The smallest gradient that is compared, relative to all contributions of the samples.
_FLOOR = 1e-3
_ZERO = torch.zeros((), dtype=torch.float64, device="cpu")

#: Of the model in training. A walk over its modules takes longer than each of these checks.
NamedParameters = Iterable[tuple[str, nn.Parameter]]


def ask_clear(parameters: NamedParameters, problems: Problems) -> None:
    """Ask whether gradients of an earlier step are left, which is a ValueError naming the first."""
    grads = {n: p.grad for n, p in parameters if p.requires_grad and p.grad is not None}
    names = list(grads)
    for places, flags in _by_device(_nonzero_flags(grads.values())):
        problems.ask_each(flags, partial(_left_over, [names[place] for place in places]))


def require_known(parameters: NamedParameters, known: Container[int]) -> None:
    """Refuse parameters that entered training after ``layer_statistics`` read the model.

    Args:
        parameters: of the module in training.
        known: identities of the parameters that were in training then.

    Raises:
        ValueError: naming the parameter.
    """
    for name, parameter in parameters:
        if parameter.requires_grad and id(parameter) not in known:
            raise ValueError(
                f"the parameter '{name}' was added, replaced or unfrozen after layer_statistics() "
                "read the model, so it would not be measured. Ways out: make a new "
                "layer_statistics(model) after such a change; leave the context for calls with "
                "other tensors in its place, as by torch.func.functional_call"
            )


def ask_kept(
    parameters: NamedParameters,
    reached: Collection[int],
    sq_norms: list[Tensor],
    problems: Problems,
) -> None:
    """Ask, as another micro-batch begins, whether the gradient of those before it is still there.

    All of it being zero while samples contributed something is a ValueError.

    Args:
        parameters: of the module in training.
        reached: identities of the parameters that have got a gradient.
        sq_norms: of the samples that have contributed to it.
        problems: of the step.
    """
    grads = [p.grad for _, p in parameters if id(p) in reached and p.grad is not None]
    if not grads and any(is_sharded(p) for _, p in parameters):
        return  # they are not reduced yet, and nobody else holds them
    if not sq_norms:
        return
    where = sq_norms[0].device
    contributed, left = (
        torch.stack([flag.to(where) for flag in _nonzero_flags(tensors)]).any()
        if tensors
        else torch.zeros((), dtype=torch.bool, device=where)
        for tensors in (sq_norms, grads)
    )
    error = ValueError(dropped_gradient_message("the parameters"))
    problems.ask_each(contributed & ~left, lambda _: error)


def require_present(parameters: NamedParameters, reached: Container[int]) -> None:
    """Refuse a record without the gradient that it is about.

    Raises:
        ValueError: naming a parameter whose gradient is not in ``.grad``.
    """
    for name, parameter in parameters:
        if id(parameter) in reached and parameter.requires_grad and parameter.grad is None:
            raise ValueError(
                f"the gradient of '{name}' is not in .grad: it was taken by autograd.grad, set to "
                "None after the backward pass, or cut there (DeepSpeed's ZeRO stage 2). Ways out: "
                "call loss.backward(), and statistics() right after it, before zero_grad(); with "
                "DeepSpeed ZeRO stage 0 or 1"
            )


def dropped_gradient_message(name: str) -> str:
    """The message for gradients that are gone while their samples still count."""
    return (
        f"the gradient of {name} was set to zero after an earlier backward pass, whose samples "
        "would count as this step's. Ways out: call statistics() in every step, after the backward "
        "pass; or reset() to forget samples that should not count"
    )


def foreign_gradient_message(name: str) -> str:
    """The message for a gradient that is not what the samples contributed."""
    return (
        f"what the samples contributed to the gradient of '{name}' does not add up to it. The "
        "cause can be a penalty in the loss, which belongs to no sample; a hook that changes the "
        "gradient; a use of the parameter outside of its module; an output of the module that was "
        "changed in place; or a module that returns something else when it runs again. Ways out: "
        "weight_decay of the optimizer, or the penalty's gradient added after statistics(); the "
        f"hook's change made after statistics(); or {OTHER_SOURCES}"
    )


def changed_gradient_message(name: str) -> str:
    """The message for a gradient that is no longer the one that was measured."""
    return (
        f"the gradient of '{name}' was changed between the backward pass and statistics(): "
        "clipped, unscaled, reduced, set to zero or used by a step. Way out: call statistics() "
        "right after the backward pass, with grad_scale= for a loss that was scaled"
    )


def late_hook_message(name: str) -> str:
    """The message for a hook that may change a gradient after it was seen."""
    return (
        f"a hook on '{name}' was registered between the forward and the backward pass, and may "
        "change its gradient after it was measured. Way out: register it before the forward pass"
    )


def changed_input_message(layer: str) -> str:
    """The message for a layer whose inputs are no longer what they were."""
    return (
        f"{layer} has an input that was changed in place after its forward pass, and needs it for "
        "its samples' gradients. Way out: the out-of-place form of what changes it"
    )


def partial_gradients_message(layer: str) -> str:
    """The message for a gradient whose parts were measured separately."""
    return (
        f"{layer} got its gradient in several parts from several reentrant checkpoints, so the "
        "norm of their sum is not known. Way out: pass use_reentrant=False to the checkpoints"
    )


def second_backward_message(layer: str) -> str:
    """The message for two backward passes of one forward pass."""
    return (
        f"{layer} got a second gradient for the same forward pass: backward ran twice through it. "
        "Ways out: add the losses and run backward once, or run a forward pass for each backward"
    )


def _nonzero_flags(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Whether each has an element that is not zero, where it is."""
    parts = map(local, tensors)
    return [(t.coalesce().values() if t.is_sparse else t).any() for t in parts]


def ask_foreign(micro_batch: MicroBatch, parameters: NamedParameters, problems: Problems) -> None:
    """Ask whether gradients come from the measured layers, and from them alone.

    If autograd computed a gradient, the samples' contributions must add up to it.
    """
    compared: list[tuple[str, Tensor]] = []
    floor = _ZERO
    if micro_batch.arrived and micro_batch.norms:
        # Below the rounding of all that the samples contributed nothing can be told.
        where = micro_batch.norms[0].squared.device
        squares = torch.stack([each.squared.sum().to(where) for each in micro_batch.norms])
        floor = _FLOOR * squares.sum().sqrt()
    for name, parameter in parameters:
        grad = micro_batch.arrived.get(id(parameter))
        if grad is None:
            continue
        if micro_batch.samples == 0:
            compared.append((name, grad.to_dense().any()))
            continue
        keys = [key for key in micro_batch.parts if key[0] == id(parameter)]
        if not keys:
            problems.add(
                UnsupportedModelError(
                    f"the parameter '{name}' got a gradient outside of the layers that are "
                    "measured: it is used outside of its module's forward, or an output of the "
                    "module was changed in place. Ways out: call the module in place of reading "
                    "its parameter, and the out-of-place form; hold the parameter where it is "
                    f"used; freeze it; or {OTHER_SOURCES}"
                )
            )
        elif all(key in micro_batch.sums for key in keys) and len(keys) == 1:
            ours, theirs = micro_batch.sums[keys[0]], grad.to_dense().view_as(grad)
            ours = ours.to_dense() if ours.is_sparse else ours
            scale = torch.linalg.vector_norm(theirs.double())
            error = torch.linalg.vector_norm(ours.double() - theirs.double())
            allowed = (
                COARSE_TOLERANCE
                if micro_batch.autocast
                else TOLERANCE.get(grad.dtype, COARSE_TOLERANCE)
            )
            least = torch.maximum(scale, floor.to(scale.device))
            compared.append((name, error > allowed * least))
    incomplete = micro_batch.shared.incomplete
    for places, flags in _by_device([flag for _, flag in incomplete]):
        layers = [incomplete[place][0] for place in places]
        problems.ask_each(flags, partial(_unknown_shares, layers))
    for places, flags in _by_device([far for _, far in compared]):
        names = [compared[place][0] for place in places]
        problems.ask_each(flags, partial(_foreign, names))


def _left_over(names: Sequence[str], place: int) -> Exception:
    return ValueError(
        f"a gradient of an earlier step is left in .grad of '{names[place]}' and would count as "
        "this step's; call optimizer.zero_grad() before the first backward pass of a step"
    )


def _unknown_shares(layers: Sequence[str], place: int) -> Exception:
    return UnsupportedModelError(unknown_shares_message(layers[place]))


def _foreign(names: Sequence[str], place: int) -> Exception:
    return ValueError(foreign_gradient_message(names[place]))


def _by_device(flags: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """The flags of each device in one tensor, with the place of each."""
    devices = dict.fromkeys(flag.device for flag in flags)
    for device in devices:
        places = [place for place, flag in enumerate(flags) if flag.device == device]
        yield places, torch.stack([flags[place] for place in places])


def require_grad_mode(
    micro_batches: Iterable[MicroBatch],
    with_grad: Container[str],
    without_grad: Mapping[str, Sequence[Part]],
) -> None:
    """Refuse layers that ran under no_grad alone, whose parameters get no gradient.

    Args:
        micro_batches: of the step.
        with_grad: names of layers that ran with grad mode.
        without_grad: parts of those that ran without, by their names.

    Raises:
        ValueError: naming the layer.
    """
    measured = {key for micro_batch in micro_batches for key in micro_batch.measured()}
    for layer, parts in without_grad.items():
        if layer not in with_grad and not measured & {part.key for part in parts}:
            raise ValueError(
                f"{layer} was called under no_grad, so its parameters have no gradient. Ways "
                "out: call it with grad mode, or freeze it with requires_grad_(False)"
            )


def storage_pointer(tensor: Tensor) -> int:
    """Where the values of a gradient are."""
    return (tensor._values() if tensor.is_sparse else tensor).untyped_storage().data_ptr()


def in_transform() -> bool:
    """Whether a transform of torch.func, which has its own derivatives, runs now."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def in_backward() -> bool:
    """Whether this thread runs a backward pass now."""
    return bool(torch._C._current_graph_task_id() != -1)


def trains(model: nn.Module) -> bool:
    """Whether a parameter is in training now."""
    return any(parameter.requires_grad for parameter in model.parameters())
