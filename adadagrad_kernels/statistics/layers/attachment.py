"""Puts a recorder into a model's forward passes, and takes it out again.

Modules keep their class, their parameters and their hooks; only the attribute ``forward`` of the
instance changes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.shards import kind_of
from adadagrad_kernels.statistics.layers.attention import attention
from adadagrad_kernels.statistics.layers.by_vmap import call_module, require_whole
from adadagrad_kernels.statistics.layers.moving_buffers import note_buffers
from adadagrad_kernels.statistics.layers.registry import (
    Layer,
    Runner,
    find_runner,
    has_forward_of_its_own,
    registered,
)
from adadagrad_kernels.statistics.layers.selection import selected_layers
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.samples import OTHER_SOURCES
from adadagrad_kernels.statistics.measuring.stage_passes import require_equal_sizes
from adadagrad_kernels.statistics.measuring.verify import (
    in_backward,
    in_transform,
    trains,
)

Forward = Callable[..., Any]


class _MeasuredForward(functools.partial[Any]):
    """Replaces a module's forward; copies of the module are plain again.

    A partial has no Python frame of its own for the compiler to trace.
    """

    _module: nn.Module
    before: Forward | None

    def __reduce__(self) -> Any:
        # Deep copies and pickles of a model in the context would otherwise report to its recorder.
        if self.before is not None:
            return _same, (self.before,)
        return _plain_forward, (self._module,)


def _same(forward: Forward) -> Forward:
    return forward


def _plain_forward(module: nn.Module) -> Forward:
    return MethodType(type(module).forward, module)


class Attachment:
    """The changed forwards of a model, and hooks on its parameters.

    Args:
        recorder: where the layers report.
        on_other: ``"vmap"`` or ``"raise"``, for modules of other kinds with parameters of their
            own.
        only: says of a module whether it is measured; None for all.

    Raises:
        UnsupportedModelError: for such modules, where asked; for lazy and compiled modules.
        ValueError: where ``only`` selects nothing that trains, or a part of what is tied.
    """

    def __init__(
        self, recorder: Recorder, on_other: str, only: Callable[[nn.Module], bool] | None = None
    ) -> None:
        _require_unmeasured(recorder.step.model)
        self._recorder, self._step = recorder, recorder.step
        if only is None:
            self._layers = list(_layers(self._step.model, on_other))
        else:
            chosen = {id(m) for m in self._step.model.modules() if only(m)}
            units = _layers(self._step.model, on_other, chosen)
            self._layers = selected_layers(units, chosen)
            self._step.measure_only(p for layer in self._layers for p in layer.own.values())
        self._step.call.watch.holders = {
            layer.name: {id(layer.own[name]) for name in layer.held}
            for layer in self._layers
            if layer.held
        }
        self._heard: dict[str, nn.Parameter] = {}
        self._handles: dict[str, Any] = {}
        self._inside = False  # of the model's forward pass
        self._pause = ExitStack()  # while one without samples runs
        self._replaced: list[tuple[nn.Module, _MeasuredForward]] = []

    def attach(self) -> None:
        """Replace the forwards; if this fails, the model is as it was."""
        _require_unmeasured(self._step.model)
        try:
            for layer in self._layers:
                runner = _runner(layer.module) or call_module
                run = _call_of_a_layer(self._recorder, runner, layer)
                self._replace(layer.module, _outside_of_graphs(run, inner=True))
                if runner is call_module and layer.module._forward_pre_hooks:
                    hook = layer.module.register_forward_pre_hook(note_buffers, prepend=True)
                    self._handles[f"{layer.name} before its hooks"] = hook
            model = self._step.model
            # The model's own forward may be compiled; what surrounds it is not.
            begin, end = (_outside_of_graphs(f, inner=True) for f in (self._begin, self._end))
            returned = _outside_of_graphs(self._recorder.note_result, inner=True)
            # A loop that calls parts of the model alone has those parts asked.
            for module in (*_parts(model), model):
                call = _call_of_a_model(module, module.forward, begin, returned, end)
                self._replace(module, _outside_of_graphs(call, inner=False))
            # Those of fully_shard are heard of in the forward pass, when something stands for them.
            stand_ins = self._step.stand_ins
            if stand_ins is None or not stand_ins.parameters.modules:
                known, named = self._step.known, model.named_parameters()
                self._heard = {n: p for n, p in named if p.requires_grad and id(p) in known}
            elif self._step.stage is not None:
                # A schedule reduces them when all backward passes of the step are over.
                for name, sharded in stand_ins.parameters.items():
                    handle = sharded.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                        self._step.arrivals.note_reduced
                    )
                    self._handles[f"{name} reduced"] = handle
            for name, parameter in self._heard.items():
                self._hear(name, parameter)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Put everything back."""
        while self._replaced:
            module, ours = self._replaced.pop()
            if ours.before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = ours.before
        while self._handles:
            self._handles.popitem()[1].remove()
        if self._step.stand_ins is not None:
            self._step.stand_ins.forget()

    def _replace(self, module: nn.Module, forward: Forward) -> None:
        ours = _MeasuredForward(forward)
        ours._module, ours.before = module, module.__dict__.get("forward")
        self._replaced.append((module, ours))
        module.__dict__["forward"] = ours

    def _begin(self, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> bool:
        """Begin a call of the model; whether it is one, and ``_end`` must follow."""
        measures = self._step.gate.measures and not in_transform() and not in_backward()
        if self._inside or not measures:
            if not self._inside and torch.is_grad_enabled() and not in_backward():
                self._recorder.fail_together()
            return False
        self._inside = True
        try:
            if torch.is_grad_enabled() and trains(self._step.model):
                self._hear_last()
                if not self._is_measured(module, forward, args, kwargs):
                    self._pause.enter_context(self._step.gate.paused())
        except BaseException:
            self._end()
            raise
        return True

    def _is_measured(self, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> bool:
        if self._step.stage is not None:
            require_equal_sizes()  # at once, since the step does not get to its end
        try:
            return self._recorder.begin_call(module, forward, args, kwargs)
        except Exception as error:
            self._recorder.keep(error)
            return False
        finally:
            if self._step.together is not None and self._step.together.failed:
                self._step.gate.fail()

    def _end(self) -> None:
        self._inside = False
        self._pause.close()

    def _hear(self, name: str, parameter: nn.Parameter) -> None:
        def hear(grad: Tensor) -> None:
            self._recorder.backward.note_gradient(parameter, name, grad)
            if not self._is_last(name, parameter):
                self._recorder.backward.note_hook(name)

        self._handles[name] = parameter.register_hook(hear)  # type: ignore[no-untyped-call]

    def _is_last(self, name: str, parameter: nn.Parameter) -> bool:
        hooks = parameter._backward_hooks
        return not hooks or next(reversed(hooks)) == self._handles[name].id

    def _hear_last(self) -> None:
        """Hook in last again: hooks run in order, and later ones may change the gradient."""
        for name, parameter in self._heard.items():
            if not self._is_last(name, parameter):
                self._handles.pop(name).remove()
                self._hear(name, parameter)
            later = getattr(parameter, "_post_accumulate_grad_hooks", None)
            if later and f"{name} after" not in self._handles:
                # Before those that may change .grad once it is there, and once more behind them.
                versions: list[int] = []
                before = functools.partial(self._mark, versions)
                handle = parameter.register_post_accumulate_grad_hook(before)  # type: ignore[no-untyped-call]
                self._handles[f"{name} after"] = handle
                others = {key: later.pop(key) for key in list(later) if key != handle.id}
                later.update(others)
                unmoved = functools.partial(self._require_unmoved, name, versions)
                handle = parameter.register_post_accumulate_grad_hook(unmoved)  # type: ignore[no-untyped-call]
                self._handles[f"{name} at last"] = handle

    def _mark(self, versions: list[int], parameter: Tensor) -> None:
        self._step.arrivals.mark(parameter)
        versions[:] = [parameter._version]

    def _require_unmoved(self, name: str, versions: list[int], parameter: Tensor) -> None:
        """Refuse an optimizer in the backward pass, which has not reached the inputs yet."""
        self._recorder.backward.note_after_hooks(name, parameter)
        if versions != [parameter._version] and not self._recorder.shadow:
            raise ValueError(
                f"a hook, such as an optimizer in the backward pass, has changed the parameter "
                f"'{name}', which the layer still needs for the gradient of its inputs. Ways out: "
                "call the optimizer after statistics(); or take a plain step outside of the context"
            )


def _require_unmeasured(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module.__dict__.get("forward"), _MeasuredForward):
            where = f"layer '{path}'" if path else "the model"
            raise ValueError(
                f"{where} ({type(module).__name__}) is measured by another layer_statistics, whose "
                "context is still open. Way out: leave that context first, since one context "
                "around the whole model measures all of its layers"
            )


def _outside_of_graphs(forward: Forward, *, inner: bool) -> Forward:
    """Keep ``torch.compile`` from tracing a forward and, if ``inner``, what it calls.

    A program that has compiled nothing does not import the compiler, which takes seconds.
    """
    if "torch._dynamo" not in sys.modules:
        return forward
    disable: Callable[..., Forward] = torch.compiler.disable
    disabled = disable(forward, recursive=inner)
    return disabled


def _call_of_a_model(
    module: nn.Module, forward: Forward, begin: Forward, returned: Forward, end: Forward
) -> Forward:
    """A plain function, because torch before 2.8 keeps no other callable out of its graphs."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not begin(module, forward, args, kwargs):
            return forward(*args, **kwargs)
        try:
            result = forward(*args, **kwargs)
            returned(result)
            return result
        finally:
            end()

    return call


def _call_of_a_layer(recorder: Recorder, runner: Any, layer: Layer) -> Forward:
    step = recorder.step
    # Attention and recurrent layers may have their samples in the second dimension, and the rows of
    # a bag are not samples.
    other = isinstance(layer.module, nn.MultiheadAttention | nn.RNNBase | nn.EmbeddingBag)

    def call(*args: Any, **kwargs: Any) -> Any:
        watch = step.call.watch
        if watch.now is not None:
            with watch.layer(layer.name, None if other else (args, kwargs)):
                return layer.forward(*args, **kwargs)
        if step.stand_ins is not None:
            if torch.is_grad_enabled():
                step.stand_ins.see(layer.module, layer.own)
            with step.stand_ins.tangents(layer.module, layer.own) as runs_along:
                if runs_along:
                    return layer.forward(*args, **kwargs)
        if not recorder.measures or in_transform():
            return layer.forward(*args, **kwargs)
        try:
            return runner(recorder, layer, *args, **kwargs)
        except Exception as error:
            if not step.pooled or in_backward():
                raise  # in a backward pass a checkpoint stops what it runs again so
            # What the layer itself refuses is raised by it; the others do not run into that.
            result = layer.forward(*args, **kwargs)
            recorder.keep(error)
            return result

    return call


def _runner(module: nn.Module) -> Runner | None:
    known = kind_of(module) is nn.MultiheadAttention and not has_forward_of_its_own(module)
    return attention if known else find_runner(module)


def _layers(
    model: nn.Module, on_other: str, chosen: Container[int] | None = None
) -> Iterator[Layer]:
    """The modules with parameters of their own that require grad.

    Args:
        model: the module in training.
        on_other: as for ``Attachment``.
        chosen: identities of the modules that are measured, whose kinds matter; None for all.
    """
    units = list(_units(model))
    runners = [_runner(module) for _, module, _ in units]
    measured_parameters = {
        id(parameter)
        for (_, module, whole), runner in zip(units, runners, strict=True)
        if runner
        for parameter in module.parameters(recurse=whole)
    }
    for (path, module, whole), runner in zip(units, runners, strict=True):
        where = f"layer '{path}'" if path else "the model"
        name = f"{where} ({type(module).__name__})"
        named = module.named_parameters() if whole else _own_parameters(module)
        own = {key: parameter for key, parameter in named if parameter.requires_grad}
        if not own:
            continue
        if chosen is not None and id(module) not in chosen:
            yield Layer(name, module, module.forward, own)
            continue
        _require_real(name, own)
        # A container may hold a parameter of one of its layers too, which alone uses it.
        held = frozenset(
            key for key, p in own.items() if not runner and id(p) in measured_parameters
        )
        if runner is None or isinstance(module, nn.RNNBase):
            require_whole(name, own)
        if runner is None and on_other == "raise" and not registered(module):
            raise UnsupportedModelError(
                f"{name} has parameters of its own ({', '.join(own)}) and no kernel measures such "
                "modules. Ways out: on_other='vmap', which runs it once more for every sample; "
                f"freeze it; or {OTHER_SOURCES}"
            )
        if runner is None and isinstance(module, nn.RNNBase) and not registered(module):
            raise UnsupportedModelError(
                f"{name} is a recurrent layer with another forward or other parameters than its "
                "class, and its states do not have the samples in the first dimension. Ways out: "
                "nn.LSTM, nn.GRU or nn.RNN as they are; or measure with MicroBatchGradients"
            )
        yield Layer(name, module, module.forward, own, held)


def _units(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Modules with their paths, and whether the module is measured as a whole with its children."""
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in inside or not _has_forward(module):
            continue
        whole = parametrize.is_parametrized(module) or isinstance(module, nn.MultiheadAttention)
        if whole:
            inside.update(module.modules())
        yield path, module, whole


def _has_forward(module: nn.Module) -> bool:
    """False for lists and dictionaries of modules or parameters, which their owner uses."""
    return type(module).forward is not nn.Module.forward or "forward" in module.__dict__


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a module, and those of children without a forward of their own."""
    yield from module.named_parameters(recurse=False)
    for name, child in module.named_children():
        if not _has_forward(child):
            yield from ((f"{name}.{key}", value) for key, value in _own_parameters(child))


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """The parts of a model that can be called alone; a loss among them has nothing to measure."""
    for child in model.children():
        if next(child.parameters(), None) is None:
            continue
        if _has_forward(child):
            yield child
        else:
            yield from _parts(child)


def _require_real(layer: str, own: dict[str, nn.Parameter]) -> None:
    for name, parameter in own.items():
        if parameter.is_complex():
            raise UnsupportedModelError(
                f"{layer} has a parameter '{name}' of {parameter.dtype}; accepted are real "
                "numbers. Ways out: hold torch.view_as_real of it in the parameter and compute "
                "with torch.view_as_complex; or freeze it"
            )
