"""Modules of other kinds that have parameters of their own: their contributions by vmap.

The module's forward is run again for some samples at a time, with a parameter's gradient for each
of them. Only the module's own parameters are differentiated; its children have uses of their own.
Checkpoints and autograd functions that torch.func cannot transform are run sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.layers.registry import Contributions, Layer, registered
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.uses import Part, Use, wide
from adadagrad_kernels.statistics.randomness import RandomState


def call_module(recorder: Recorder, layer: Layer, *args: Any, **kwargs: Any) -> Any:
    """Run a module and listen to the gradients of its outputs.

    Raises:
        UnsupportedModelError: where it draws random numbers, which cannot be drawn again for a
            sample alone, or has outputs without samples.
    """
    own = {name: value for name, value in layer.own.items() if value.requires_grad}
    if not own:
        return layer.forward(*args, **kwargs)
    arguments, tensors, structure = _taken_apart(args, kwargs)
    use = ModuleUse(
        layer.name,
        module=layer.module,
        own=own,
        arguments=arguments,
        structure=structure,
        plain=recorder.paused,
        cast=_autocast_of(next(iter(layer.own.values())).device.type),
    )
    if not recorder.called(use):
        return layer.forward(*args, **kwargs)
    before = RandomState(next(iter(own.values())).device)
    result = layer.forward(*args, **kwargs)
    if before.has_changed():
        raise UnsupportedModelError(
            f"{layer.name} has parameters of its own ({', '.join(layer.own)}) and draws random "
            "numbers, which it would draw anew when it is run again for every sample. Ways out: "
            "move the dropout, or the parameters, into a module of their own; or measure with "
            "PerSampleGradients"
        )
    leaves, _ = tree_flatten(result)
    outputs = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    if not outputs:
        return result
    use.batch_size = recorder.samples_in(use, leaves[outputs[0]])
    has_samples = [t.dim() > 0 and len(t) == use.batch_size for t in tensors]
    unbatched = layer.name in recorder.asked.unbatched or not any(has_samples)
    rows = _rows(leaves[outputs[0]])
    if not unbatched and not rows:
        raise UnsupportedModelError(
            f"{layer.name} has parameters of its own ({', '.join(layer.own)}) and an output "
            "without samples, such as a loss. Ways out: move the parameters into a module of "
            "their own; or measure with PerSampleGradients"
        )
    if not unbatched:
        recorder.samples_of(use, rows)
    use.unbatched = unbatched
    use.shared = unbatched or rows != use.batch_size
    if use.shared and len(outputs) > 1:
        raise UnsupportedModelError(
            f"{layer.name} has parameters of its own ({', '.join(layer.own)}) and several outputs "
            "without samples. Ways out: move the parameters into a module of their own; or measure "
            "with PerSampleGradients"
        )
    use.outputs = outputs
    recorder.observe(use, [leaves[place] for place in outputs], tensors)
    if use.shared and use.batch_size > 1:
        use.micro_batch.shared.add(use, leaves[outputs[0]])
    return result


def _rows(tensor: Tensor) -> int:
    return len(tensor) if tensor.dim() else 0


@dataclass(eq=False)
class ModuleUse(Use):
    """A call of any module; saved are the tensors among its arguments.

    Attributes:
        module: what was called.
        own: its own parameters that require grad, by name in the module.
        arguments: leaves of args and kwargs, None in the place of each tensor.
        structure: how the leaves make args and kwargs.
        outputs: which leaves of the result have samples.
        plain: makes a context in which the module's children run as they are.
        cast: makes the context of its autocast, which is over when it runs again.
        batch_size: samples of the batch.
        unbatched: whether none of its tensors has samples, however long they are.
    """

    module: nn.Module = field(default_factory=nn.Module)
    own: dict[str, nn.Parameter] = field(default_factory=dict)
    arguments: list[Any] = field(default_factory=list)
    structure: TreeSpec | None = None
    outputs: list[int] = field(default_factory=list)
    plain: Callable[[], AbstractContextManager[None]] | None = None
    cast: Callable[[], AbstractContextManager[Any]] = nullcontext
    batch_size: int = 0
    unbatched: bool = False

    @property
    def parts(self) -> list[Part]:
        """Its own parameters."""
        return [Part(parameter, 0, parameter) for parameter in self.own.values()]

    def contributions(self, rows: slice) -> list[Tensor]:
        """By one vector-Jacobian product for each sample, all at once where torch.func can.

        Raises:
            UnsupportedModelError: where the module cannot be run again for a sample.
        """
        assert self.plain is not None
        batched = [
            not self.unbatched and tensor.dim() > 0 and len(tensor) == self.batch_size
            for tensor in self.saved
        ]
        tensors = [
            tensor[rows] if has_samples else tensor
            for tensor, has_samples in zip(self.saved, batched, strict=True)
        ]
        places = sorted(self.grads)
        grads = [self.grads[place][rows] for place in places]
        formula = registered(self.module)
        if formula is not None:
            return self._by_formula(formula, tensors, grads)
        spread = vmap(
            lambda each, grad: self._gradient(each, batched, places, grad, _transformed),
            in_dims=([0 if has_samples else None for has_samples in batched], 0),
            randomness="error",
        )
        # Under inference or no_grad torch.func keeps its own graph.
        with self.plain(), _restored(self.module), torch.enable_grad(), self.cast():
            try:
                found = spread(tensors, grads)
            except RuntimeError as error:
                known = any(words in str(error) for words in _NOT_TRANSFORMED)
                if not known and not isinstance(self.module, nn.RNNCellBase):
                    raise
                found = self._one_by_one(tensors, batched, places, grads)
        return [wide(gradient.detach()) for gradient in found]

    def _by_formula(
        self, formula: Contributions, tensors: list[Tensor], grads: list[Tensor]
    ) -> list[Tensor]:
        """By what a user has registered for this kind of layer.

        Raises:
            ValueError: where it gives something else than the samples' contributions.
        """
        if len(grads) != 1:
            raise ValueError(
                f"{self.layer} has {len(grads)} outputs with gradients; register_layer takes "
                "layers with one"
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
        return [wide(found[name].detach()).clone() for name in self.own]

    def _arguments(self, tensors: list[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those of the call, with other tensors in their places."""
        given = iter(tensors)
        leaves = [next(given) if leaf is _TENSOR else leaf for leaf in self.arguments]
        assert self.structure is not None
        args, kwargs = tree_unflatten(leaves, self.structure)
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
                rows.append(self._gradient(each, batched, places, grad, _recorded))
            except RuntimeError as error:
                raise UnsupportedModelError(
                    f"{self.layer} has parameters of its own ({', '.join(self.own)}) and cannot be "
                    f"run again for one sample: {error}. Ways out: use_reentrant=False for "
                    "checkpoints inside; move the parameters into a module of their own; or "
                    "measure with PerSampleGradients"
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
            called = functional_call(self.module, values, args, kwargs, tie_weights=False)
            results = tree_flatten(called)[0]
            return [results[self.outputs[place]] for place in places]

        own = {name: parameter.detach() for name, parameter in self.own.items()}
        # The output that all samples share has no dimension for them.
        given_grads = grads if self.shared else [grad.unsqueeze(0) for grad in grads]
        gradients = pull_back(run, own, given_grads)
        return [gradients[name] for name in own]


#: What torch.func says of checkpoints, and of functions of an older kind.
_NOT_TRANSFORMED = ("saved tensor hooks", "setup_context")

Values = dict[str, Tensor]
PullBack = Callable[[Callable[[Values], list[Tensor]], Values, list[Tensor]], Values]


def _transformed(run: Callable[[Values], list[Tensor]], own: Values, grads: list[Tensor]) -> Values:
    gradients: Values = vjp(run, own)[1](grads)[0]
    return gradients


def _recorded(run: Callable[[Values], list[Tensor]], own: Values, grads: list[Tensor]) -> Values:
    own = {name: value.requires_grad_() for name, value in own.items()}
    results = run(own)
    found = torch.autograd.grad(results, list(own.values()), grads, materialize_grads=True)
    return dict(zip(own, found, strict=True))


def _autocast_of(kind: str) -> Callable[[], AbstractContextManager[Any]]:
    """Makes contexts like the present one of this kind of device, with autocast or without."""
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return lambda: torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False)


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Gives tensors that hooks keep on modules their values of before."""
    before = [
        (inside, {key: value for key, value in vars(inside).items() if isinstance(value, Tensor)})
        for inside in module.modules()
    ]
    try:
        yield
    finally:
        for inside, values in before:
            vars(inside).update(values)


class _Tensor:
    """Stands for a tensor among the arguments."""


_TENSOR = _Tensor()


def _taken_apart(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[Any], list[Tensor], TreeSpec]:
    """Leaves with a mark in the place of each tensor, the tensors, and the structure."""
    leaves, structure = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return [_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves], tensors, structure
