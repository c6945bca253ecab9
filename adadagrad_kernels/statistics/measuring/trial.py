"""Runs a model for some of a batch's samples, and keeps what its modules received and returned."""

from __future__ import annotations

import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from adadagrad_kernels.shards import local
from adadagrad_kernels.statistics.contents import Contents, distinct_tensors
from adadagrad_kernels.statistics.measuring.as_before import as_before
from adadagrad_kernels.statistics.measuring.together import Together
from adadagrad_kernels.statistics.randomness import RandomState

#: Elements above which a tensor is kept as sums, over so many blocks of each sample.
_LARGE, _BLOCKS = 1 << 18, 4096


@dataclass(frozen=True)
class Call:
    """A layer called once.

    Attributes:
        shapes: of the tensors among its arguments.
        inputs: a short form of each.
    """

    shapes: tuple[torch.Size, ...]
    inputs: tuple[Tensor, ...]


@dataclass
class Trial:
    """What was seen.

    Attributes:
        outputs: tensors that each module gave, by its name, in the order in which they ran.
        calls: of each layer that is to be measured, by its name.
        users: names of layers whose own parameters were used by themselves.
        writers: names of layers that changed their inputs in place.
        result: tensors that the model gave.
    """

    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    users: set[str] = field(default_factory=set)
    writers: set[str] = field(default_factory=set)
    result: list[Tensor] = field(default_factory=list)


class Watch:
    """Sees the layers' calls while a trial runs.

    Attributes:
        now: the trial that runs, or None.
        holders: parameters of layers that may hold them for others, by the layer's name.
    """

    def __init__(self, holders: dict[str, set[int]] | None = None) -> None:
        self.now: Trial | None = None
        self.holders: dict[str, set[int]] = holders or {}
        self._running: list[str] = []
        self.count = 0

    @contextmanager
    def layer(self, name: str, arguments: Any) -> Iterator[None]:
        """A context in which a layer runs; it is noted with its arguments, if there are any."""
        tensors = Contents.of(arguments).tensors
        versions = [tensor._version for tensor in tensors]
        if self.now is not None and arguments is not None:
            here = [local(t.detach()) for t in tensors]
            inputs = tuple(_compact_copy(t, self.count) for t in here)
            self.now.calls[name].append(Call(tuple(t.shape for t in here), inputs))
        self._running.append(name)
        try:
            yield
        finally:
            self._running.pop()
        if self.now is not None and versions != [tensor._version for tensor in tensors]:
            self.now.writers.add(name)

    def used(self, parameters: set[int]) -> None:
        """Note that the innermost layer used some parameters."""
        if self._running and self.now is not None:
            name = self._running[-1]
            if parameters & self.holders.get(name, set()):
                self.now.users.add(name)


class _Uses(TorchFunctionMode):
    """Sees which parameters functions of torch are called with."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") != "__get__":
            given = Contents.of((args, kwargs)).tensors
            self._watch.used({id(t) for t in given if isinstance(t, nn.Parameter)})
        return func(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model gives in training.

    Attributes:
        tensors: each once, with the graph behind them.
        draws: whether it drew random numbers.
        hooks: whether it would have registered hooks on tensors.
    """

    tensors: list[Tensor]
    draws: bool
    hooks: bool


class _NoHooks(TorchFunctionMode):
    """Has no hook registered on a tensor.

    Attributes:
        met: whether one would have been.
    """

    met = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook:
            self.met = True
            return RemovableHandle(OrderedDict())
        if func is Tensor.retain_grad:
            return None
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, eq=False)
class Question:
    """A call of a model that can be repeated with other samples.

    Attributes:
        model: whose modules are seen.
        forward: its forward, with layers that are not measured.
        watch: of its layers.
        contents: of the arguments of the call, ``(args, kwargs)``.
        hooks: whether users' hooks run too.
        is_part: whether the model is a part of another, called alone.
        together: the ranks that can only run it at the same time.
    """

    model: nn.Module
    forward: Callable[..., Any]
    watch: Watch
    contents: Contents
    hooks: bool = False
    is_part: bool = False
    together: Together | None = None

    def run(
        self,
        rows: Sequence[int],
        batched: Sequence[bool],
        dimension: int = 0,
        of_numbers: Sequence[int] | None = None,
    ) -> Trial:
        """Run the model for some samples.

        Args:
            rows: which.
            batched: the tensors that have samples.
            dimension: where.
            of_numbers: which of tensors of whole numbers, where these are others.
        """
        args, kwargs = self._arguments(rows, batched, dimension, of_numbers)
        trial = Trial()
        paths = {module: path for path, module in self.model.named_modules()}

        def see(module: nn.Module, args: Any, output: Any) -> None:
            path = paths[module]
            name = f"layer '{path}' ({type(module).__name__})" if path else "the model"
            given = Contents.of(output).tensors
            short = [_compact_copy(local(tensor.detach()), len(rows)) for tensor in given]
            trial.outputs.setdefault(name, []).extend(short)

        uses: AbstractContextManager[Any] = (
            _Uses(self.watch) if self.watch.holders else nullcontext()
        )
        with self.without_side_effects(), torch.no_grad(), _NoHooks():
            handles = [module.register_forward_hook(see) for module in paths]
            self.watch.now, self.watch.count = trial, len(rows)
            try:
                with uses:
                    result = self.forward(*args, **kwargs)
                trial.result = [local(t.detach()) for t in Contents.of(result).tensors]
                see(self.model, (), result)
            finally:
                self.watch.now = None
                for handle in handles:
                    handle.remove()
        return trial

    def outputs(self, rows: Sequence[int], batched: Sequence[bool]) -> Outputs:
        """Run the model for some samples as in training.

        Args:
            rows: which.
            batched: the tensors that have samples.

        Returns:
            The tensors that it gives, each once, with the graph behind them.
        """
        args, kwargs = self._arguments(rows, batched)
        leaves = Contents.of((args, kwargs))
        args, kwargs = leaves.replaced(
            [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in leaves.tensors]
        )
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        with self.without_side_effects(), torch.enable_grad(), _NoHooks() as hooks:
            before = RandomState(device)
            given = distinct_tensors(self.forward(*args, **kwargs))
            draws = before.has_changed()
        return Outputs(given, draws, hooks.met)

    def whole(self) -> list[Tensor]:
        """The tensors that the model gives for the call as it is, and nothing else of it."""
        args, kwargs = self._arguments((), [False] * len(self.contents.tensors))
        with self.without_side_effects(), torch.no_grad(), _NoHooks():
            return Contents.of(self.forward(*args, **kwargs)).tensors

    def run_along(self) -> None:
        """Run the call as it is, for the others, who need this rank's part of the parameters."""
        args, kwargs = self._arguments((), [False] * len(self.contents.tensors))
        with self.without_side_effects(own=False), torch.no_grad(), _NoHooks():
            self.forward(*args, **kwargs)

    @contextmanager
    def without_side_effects(self, *, own: bool = True) -> Iterator[None]:
        """A context after which nothing shows that the model ran.

        Args:
            own: whether it runs for this rank; see ``together``.
        """
        kept = as_before(self.model, hooks=self.hooks, arguments=self.contents.others)
        runs = nullcontext() if self.together is None else self.together.run(own=own)
        try:
            with kept, runs, _no_casts_kept(), warnings.catch_warnings():
                # Such as a checkpoint's, that nothing requires grad.
                warnings.simplefilter("ignore")
                yield
        finally:
            if self.together is not None:
                self.together.put_back()

    def _arguments(
        self,
        rows: Sequence[int],
        batched: Sequence[bool],
        dimension: int = 0,
        of_numbers: Sequence[int] | None = None,
    ) -> Any:
        tensors = []
        for tensor, has_samples in zip(self.contents.tensors, batched, strict=True):
            whole = of_numbers is not None and not tensor.is_floating_point()
            index = torch.tensor(of_numbers if whole else rows, device=tensor.device)
            selected = tensor.index_select(dimension, index) if has_samples else tensor.clone()
            tensors.append(selected)
        return self.contents.replaced(tensors)


def _compact_copy(tensor: Tensor, count: int) -> Tensor:
    """A copy; for a large tensor with samples first, weighted sums over blocks of each sample."""
    rows = len(tensor) if tensor.dim() else 0
    large = tensor.numel() > _LARGE and tensor.is_floating_point() and rows == count
    if not large or sum(size == count for size in tensor.shape) > 1:
        return tensor.clone()
    values = tensor.reshape(count, -1)
    size = -(-values.shape[1] // _BLOCKS)
    whole = values.shape[1] // size * size
    weights = torch.arange(1, size + 1, device=tensor.device, dtype=torch.float32).sin_()
    weights = weights.to(tensor.dtype)
    sums = values[:, :whole].reshape(count, -1, size) @ weights
    if whole < values.shape[1]:
        rest = values[:, whole:] @ weights[: values.shape[1] - whole]
        sums = torch.cat([sums, rest.unsqueeze(1)], 1)
    return sums


@contextmanager
def _no_casts_kept() -> Iterator[None]:
    """A context in which autocast keeps no parameter that it casts.

    Torch 2.6 also keeps what it casts under no_grad, and the call that follows would
    take it, which has no graph: its parameter would get no gradient.
    """
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
