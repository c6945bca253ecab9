"""Modules of other kinds that have parameters of their own: their contributions by vmap.

The module's forward runs again for some samples at a time, and gives each of them a gradient of
every parameter. Only the module's own parameters are differentiated; its children have uses of
their own. What torch.func cannot transform, such as checkpoints, autograd functions of an older
kind and control flow that depends on values, runs sample by sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.memory import is_out_of_memory
from adadagrad_kernels.shards import is_sharded
from adadagrad_kernels.statistics.contents import Contents
from adadagrad_kernels.statistics.layers.moving_buffers import before_forward
from adadagrad_kernels.statistics.layers.registry import Contributions, Layer, registered
from adadagrad_kernels.statistics.measuring.as_before import as_before
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.rows import Rows
from adadagrad_kernels.statistics.measuring.samples import OTHER_SOURCES, require_samples
from adadagrad_kernels.statistics.measuring.uses import Part, Use, upcast
from adadagrad_kernels.statistics.randomness import RandomState


def call_module(recorder: Recorder, layer: Layer, *args: Any, **kwargs: Any) -> Any:
    """Run a module and listen to the gradients of its outputs.

    Raises:
        UnsupportedModelError: if it draws random numbers, which a sample alone cannot draw again,
            or has outputs without samples.
    """
    held = set() if recorder.step.call.uses(layer.name) else layer.held
    own = {n: value for n, value in layer.own.items() if value.requires_grad and n not in held}
    if not own:
        return layer.forward(*args, **kwargs)
    require_whole(layer.name, own)
    contents = Contents.of((args, kwargs))
    use = ModuleUse(
        layer.name,
        module=layer.module,
        own=own,
        arguments=contents,
        plain=recorder.step.gate.paused,
        autocast=_autocast_of(next(iter(layer.own.values())).device.type),
    )
    if not recorder.count_call(use):
        return layer.forward(*args, **kwargs)
    given_tensors = contents.tensors
    if recorder.step.call.writes(layer.name):
        given_tensors = [tensor.detach().clone() for tensor in given_tensors]
        use.writes = True
    before = RandomState(next(iter(own.values())).device)
    buffers = before_forward(layer.module)
    result = layer.forward(*args, **kwargs)
    use.buffers = buffers.as_they_were()
    if before.has_changed():
        raise UnsupportedModelError(
            f"{layer.name} has parameters of its own ({', '.join(own)}) and draws random "
            "numbers; run again for every sample, it would draw others. Ways out: "
            f"move the dropout, or the parameters, into a module of their own; or {OTHER_SOURCES}"
        )
    given = Contents.of(result)
    use.outputs = [place for place, t in enumerate(given.tensors) if t.requires_grad]
    if not use.outputs:
        return result
    first = given.tensors[use.outputs[0]]
    rows = len(first) if first.dim() else 0
    _find_samples(recorder, use, rows)
    if use.shared and len(use.outputs) > 1:
        raise UnsupportedModelError(
            f"{layer.name} has parameters of its own ({', '.join(own)}) and several outputs "
            "without samples. Ways out: move the parameters into a module of their own; or "
            f"{OTHER_SOURCES}"
        )
    if len(use.outputs) > 1:
        # What one output passes to another inside the module is not a gradient of its own.
        places = set(use.outputs)
        views = [t.view_as(t) if i in places else t for i, t in enumerate(given.tensors)]
        result, given = given.replaced(views), replace(given, tensors=views)
    recorder.observe(use, [given.tensors[place] for place in use.outputs], given_tensors)
    if use.shared and use.batch_size > 1:
        use.micro_batch.shared.add(use, given.tensors[use.outputs[0]])
    return result


def require_whole(layer: str, own: Mapping[str, nn.Parameter]) -> None:
    """Refuse sharded parameters of a module that is run again once its backward pass is over.

    Raises:
        UnsupportedModelError: naming the layer.
    """
    if any(map(is_sharded, own.values())):
        raise UnsupportedModelError(
            f"{layer} has sharded parameters of its own ({', '.join(own)}) and no kernel measures "
            "it: it would run again after its backward pass, when its whole parameters are gone. "
            "Ways out: build it of layers that have a kernel; freeze it; or "
            "DistributedDataParallel, if the model fits"
        )


def no_sample_output_message(layer: str, own: Iterable[str]) -> str:
    """The message for a module whose output is one for all samples together."""
    return (
        f"{layer} has parameters of its own ({', '.join(own)}) and an output without samples, such "
        f"as a loss. Ways out: move the parameters into a module of their own; or {OTHER_SOURCES}"
    )


def _find_samples(recorder: Recorder, use: ModuleUse, rows: int) -> None:
    """Settle which tensors of a use have samples.

    Raises:
        UnsupportedModelError: for an output without samples of inputs with samples.
    """
    assert use.arguments is not None
    turn = recorder.step.call.next_call_index(use.layer)
    use.batch_size = recorder.samples_in(use, rows or 1)
    tensors = use.arguments.tensors
    known = recorder.step.call.answer.batched_in(use.layer, turn, len(tensors))
    use.batched = list(known or (t.dim() > 0 and len(t) == use.batch_size for t in tensors))
    kind = recorder.step.call.rows(use.layer, turn)
    if known is not None and not any(known) and kind is not Rows.SHARED:
        first = next((tensor for tensor in tensors if tensor.dim()), None)
        require_samples(use.layer, 0 if first is None else len(first), use.batch_size, None)
    if any(use.batched):
        if not rows:
            raise UnsupportedModelError(no_sample_output_message(use.layer, use.own))
        recorder.samples_of(use, rows, kind)
    use.shared = not any(use.batched) or rows != use.batch_size


@dataclass(eq=False)
class ModuleUse(Use):
    """A call of any module; saved are the tensors among its arguments.

    Attributes:
        module: what was called.
        own: its own parameters that require grad, by name in the module.
        arguments: of the call, ``(args, kwargs)``.
        outputs: which tensors of the result have gradients.
        plain: makes a context in which the module's children run as they are.
        autocast: makes the context of its autocast, which is over when it runs again.
        batch_size: samples of the batch.
        batched: which tensors among the arguments have samples.
        writes: whether its forward pass changes its inputs in place.
        buffers: those that its forward pass moves, by name, as they were before it.
    """

    module: nn.Module = field(default_factory=nn.Module)
    own: dict[str, nn.Parameter] = field(default_factory=dict)
    arguments: Contents | None = None
    outputs: list[int] = field(default_factory=list)
    plain: Callable[[], AbstractContextManager[None]] | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    batch_size: int = 0
    batched: list[bool] = field(default_factory=list)
    writes: bool = False
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """Its own parameters."""
        return [Part(parameter, 0, parameter) for parameter in self.own.values()]

    @property
    def samples(self) -> int:
        """Of the batch, also where an output has none."""
        return self.batch_size

    def contributions(self, rows: slice) -> list[Tensor]:
        """One vector-Jacobian product for each sample, all at once if torch.func can.

        Raises:
            UnsupportedModelError: if the module cannot run again for a sample.
        """
        assert self.plain is not None
        batched = self.batched
        tensors = [
            tensor[rows] if has_samples else tensor
            for tensor, has_samples in zip(self.saved, batched, strict=True)
        ]
        places = sorted(self.grads)
        if not self.shared and any(self.grads[p].shape[:1] != (self.batch_size,) for p in places):
            raise UnsupportedModelError(no_sample_output_message(self.layer, self.own))
        grads = [self.grads[place][rows] for place in places]
        formula = registered(self.module)
        if formula is not None:
            return self._by_formula(formula, tensors, grads)
        for_each_sample = vmap(
            lambda each, grad: self._gradient(each, batched, places, grad, _vjp_by_torch_func),
            in_dims=([0 if has_samples else None for has_samples in batched], 0),
            randomness="error",
        )
        # Under inference or no_grad torch.func keeps its own graph.
        kept = as_before(self.module, parameters=False)
        with self.plain(), kept, torch.enable_grad(), self.autocast():
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "There is a performance drop")
                    found = for_each_sample(tensors, grads)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                found = self._one_by_one(tensors, batched, places, grads)
        return [upcast(gradient.detach()) for gradient in found]

    def _by_formula(
        self, formula: Contributions, tensors: list[Tensor], grads: list[Tensor]
    ) -> list[Tensor]:
        """The contributions by the formula that a user registered for this kind of layer.

        Raises:
            ValueError: if it returns something else than the samples' contributions.
        """
        if len(grads) != 1:
            raise ValueError(
                f"{self.layer} has {len(grads)} outputs with gradients; register_layer takes "
                "layers with one: split the module, or leave it unregistered and measured by vmap"
            )
        args, kwargs = self._arguments(tensors)
        with torch.no_grad():
            found = formula(self.module, *args, grad_output=grads[0], **kwargs)
        shapes = {n: (len(grads[0]), *p.shape) for n, p in self.own.items()}
        given = {n: tuple(v.shape) for n, v in found.items() if n in shapes}
        if given != shapes:
            raise ValueError(
                f"the function registered for {self.layer} gave {given}; accepted is a tensor for "
                f"each of its parameters that require grad: {shapes}"
            )
        # What it gives may be a tensor of the graph, and others are added to it.
        return [upcast(found[name].detach()).clone() for name in self.own]

    def _arguments(self, tensors: list[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of the call, with other tensors in their places."""
        assert self.arguments is not None
        if self.writes:
            tensors = [tensor.clone() for tensor in tensors]
        args, kwargs = self.arguments.replaced(tensors)
        return args, kwargs

    def _one_by_one(
        self, tensors: list[Tensor], batched: list[bool], places: list[int], grads: list[Tensor]
    ) -> list[Tensor]:
        """By ordinary autograd."""
        rows = []
        for i in range(len(grads[0])):
            each = [
                tensor[i] if has_samples else tensor
                for tensor, has_samples in zip(tensors, batched, strict=True)
            ]
            grad = [whole[i] for whole in grads]
            try:
                rows.append(self._gradient(each, batched, places, grad, _vjp_by_autograd))
            except RuntimeError as error:
                raise UnsupportedModelError(
                    f"{self.layer} has parameters of its own ({', '.join(self.own)}) and cannot be "
                    f"run again for one sample: {error}. Ways out: use_reentrant=False for "
                    "checkpoints inside; move the parameters into a module of their own; or "
                    f"{OTHER_SOURCES}"
                ) from error
        return [torch.stack(parts) for parts in zip(*rows, strict=True)]

    def _gradient(
        self,
        tensors: list[Tensor],
        batched: list[bool],
        places: list[int],
        grads: list[Tensor],
        pull_back: PullBack,
    ) -> list[Tensor]:
        """Of one sample, which runs as a batch of one."""
        rows = [
            tensor.unsqueeze(0) if has_samples else tensor
            for tensor, has_samples in zip(tensors, batched, strict=True)
        ]
        args, kwargs = self._arguments(rows)

        def run(values: dict[str, Tensor]) -> list[Tensor]:
            # A layer inside that is tied to one of them has a use of its own.
            values = values | {name: value.clone() for name, value in self.buffers.items()}
            called = functional_call(self.module, values, args, kwargs, tie_weights=False)
            results = Contents.of(called).tensors
            return [results[self.outputs[place]] for place in places]

        own = {name: parameter.detach() for name, parameter in self.own.items()}
        # The output that all samples share has no dimension for them.
        given_grads = grads if self.shared else [grad.unsqueeze(0) for grad in grads]
        gradients = pull_back(run, own, given_grads)
        return [gradients[name] for name in own]


Values = dict[str, Tensor]
PullBack = Callable[[Callable[[Values], list[Tensor]], Values, list[Tensor]], Values]


def _vjp_by_torch_func(
    run: Callable[[Values], list[Tensor]], own: Values, grads: list[Tensor]
) -> Values:
    gradients: Values = vjp(run, own)[1](grads)[0]
    return gradients


def _vjp_by_autograd(
    run: Callable[[Values], list[Tensor]], own: Values, grads: list[Tensor]
) -> Values:
    own = {name: value.requires_grad_() for name, value in own.items()}
    results = run(own)
    found = torch.autograd.grad(results, list(own.values()), grads, materialize_grads=True)
    return dict(zip(own, found, strict=True))


def _autocast_of(kind: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes contexts like the present one of this kind of device, with autocast or without."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False)
