"""Puts a recorder into a model's forward passes, and takes it out again.

Modules keep their class, their parameters and their hooks: what changes is the attribute
``forward`` of the instance.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.layers.attention import attention
from adadagrad_kernels.statistics.layers.by_vmap import call_module
from adadagrad_kernels.statistics.layers.registry import (
    Layer,
    Rule,
    find_rule,
    has_forward_of_its_own,
    registered,
)
from adadagrad_kernels.statistics.measuring.independence import ask_once
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.verify import (
    in_backward,
    in_transform,
    trains,
)

Forward = Callable[..., Any]


class _MeasuredForward(functools.partial[Any]):
    """What is put on a module in the place of its forward; copies of the module are plain ones.

    A partial has no Python frame of its own for the compiler to look at.
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

    Raises:
        UnsupportedModelError: for such modules, where asked; for lazy and compiled modules.
    """

    def __init__(self, recorder: Recorder, on_other: str) -> None:
        _require_unmeasured(recorder.model)
        self._recorder = recorder
        self._layers = list(_layers(recorder.model, on_other))
        self._by_name = {layer.name: layer.module for layer in self._layers}
        self._handles: list[Any] = []
        self._replaced: list[tuple[nn.Module, _MeasuredForward]] = []

    def attach(self) -> None:
        """Replace the forwards; where this fails the model is as it was."""
        _require_unmeasured(self._recorder.model)
        try:
            for layer in self._layers:
                rule = _rule(layer.module) or call_module
                run = functools.partial(_run, self._recorder, rule, layer)
                self._replace(layer.module, _outside_of_graphs(run, inner=True))
            model = self._recorder.model
            returned = _outside_of_graphs(self._recorder.returned, inner=True)
            call = functools.partial(self._call_model, model.forward, returned)
            self._replace(model, _outside_of_graphs(call, inner=False))
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    hook = functools.partial(self._recorder.heard, parameter, name)
                    self._handles.append(parameter.register_hook(_nothing(hook)))  # type: ignore[no-untyped-call]
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
            self._handles.pop().remove()

    def _replace(self, module: nn.Module, forward: Forward) -> None:
        ours = _MeasuredForward(forward)
        ours._module, ours.before = module, module.__dict__.get("forward")
        self._replaced.append((module, ours))
        module.__dict__["forward"] = ours

    def _call_model(self, forward: Forward, returned: Forward, *args: Any, **kwargs: Any) -> Any:
        recorder = self._recorder
        measures = recorder.measures and not in_transform() and not in_backward()
        if measures and torch.is_grad_enabled() and trains(recorder.model):
            samples = recorder.begin_call(args, kwargs)
            if samples:
                with recorder.paused():
                    recorder.asked = ask_once(
                        recorder.model, forward, self._by_name, samples, args, kwargs
                    )
        result = forward(*args, **kwargs)
        if measures:
            returned(result)
        return result


def _require_unmeasured(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module.__dict__.get("forward"), _MeasuredForward):
            where = f"layer '{path}'" if path else "the model"
            raise ValueError(
                f"{where} ({type(module).__name__}) is measured by another layer_statistics, whose "
                "context is still open. Way out: leave that context first; one context around the "
                "whole model measures all of its layers"
            )


def _outside_of_graphs(forward: Forward, *, inner: bool) -> Forward:
    """Keep ``torch.compile`` from tracing a forward, and where ``inner`` what it calls too.

    A program that has compiled nothing is spared the import of the compiler, which takes seconds.
    """
    if "torch._dynamo" not in sys.modules:
        return forward
    disable: Callable[..., Forward] = torch.compiler.disable
    disabled = disable(forward, recursive=inner)
    return disabled


def _run(recorder: Recorder, rule: Any, layer: Layer, *args: Any, **kwargs: Any) -> Any:
    if not recorder.measures or in_transform():
        return layer.forward(*args, **kwargs)
    return rule(recorder, layer, *args, **kwargs)


def _rule(module: nn.Module) -> Rule | None:
    known = type(module) is nn.MultiheadAttention and not has_forward_of_its_own(module)
    if known and module.bias_k is None:
        return attention
    return find_rule(module)


def _nothing(hook: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    def call(grad: Tensor) -> None:
        hook(grad)

    return call


def _layers(model: nn.Module, on_other: str) -> Iterator[Layer]:
    """The modules with parameters of their own that require grad."""
    units = list(_units(model))
    rules = [_rule(module) for _, module, _ in units]
    ruled = {
        id(parameter)
        for (_, module, whole), rule in zip(units, rules, strict=True)
        if rule
        for parameter in module.parameters(recurse=whole)
    }
    for (path, module, whole), rule in zip(units, rules, strict=True):
        where = f"layer '{path}'" if path else "the model"
        name = f"{where} ({type(module).__name__})"
        own = {
            key: parameter
            for key, parameter in module.named_parameters(recurse=whole)
            # A container may hold a parameter of one of its layers too, which alone uses it.
            if parameter.requires_grad and (rule or id(parameter) not in ruled)
        }
        if not own:
            continue
        if rule is None and on_other == "raise" and not registered(module):
            raise UnsupportedModelError(
                f"{name} has parameters of its own ({', '.join(own)}) and is of a kind that has no "
                "rule. Ways out: on_other='vmap', which runs it again for every sample; freeze it; "
                "or measure with PerSampleGradients"
            )
        if rule is None and isinstance(module, nn.RNNBase) and not registered(module):
            raise UnsupportedModelError(
                f"{name} keeps samples in another dimension than the first of its states. Ways "
                "out: measure with PerSampleGradients, or with MicroBatchGradients"
            )
        yield Layer(name, module, module.forward, own)


def _units(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Modules with their paths, and whether the modules inside have no calls of their own."""
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in inside:
            continue
        whole = parametrize.is_parametrized(module) or isinstance(module, nn.MultiheadAttention)
        if whole:
            inside.update(module.modules())
        yield path, module, whole
