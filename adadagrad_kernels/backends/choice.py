"""The backend that was asked for: by a call in a thread, else by the environment."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

from adadagrad_kernels.backends.registry import BACKENDS

VARIABLE = "ADADAGRAD_KERNELS_BACKEND"

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _Own(threading.local):
    """What a thread asked for; None before it asked or ran an op."""

    name: str | None = None


_own = _Own()
_environment = os.environ.get(VARIABLE) or "auto"
_of_main_thread: str | None = None


def chosen() -> str:
    """The name that holds in this thread, ``auto`` among them.

    Raises:
        ValueError: where the environment names no backend, and nothing else was asked for.
    """
    name = _own.name
    return _first_choice() if name is None else name


def accepted(name: str, source: str = "use_backend") -> str:
    """Returns a name that is one.

    Raises:
        ValueError: for another one, with those that are accepted.
    """
    if name != "auto" and name not in BACKENDS:
        raise ValueError(
            f"{source} names the backend {name!r}; accepted are auto, {', '.join(BACKENDS)}"
        )
    return name


def from_environment() -> str:
    """The name in the environment; read once, at the import.

    Raises:
        ValueError: where it is no backend. Said where an op runs or a command begins: raised by
            the import, it could be caught by nobody.
    """
    return accepted(_environment, VARIABLE)


class use_backend:  # noqa: N801 - called like a function, as torch.set_grad_enabled
    """Run the ops of this thread on the backend called ``name``: from now on, or in a context.

    A call alone holds until the next one. As a context manager or decorator it puts back, at its
    end, what was asked for before it. Other threads are not concerned: each asks for itself, and
    until then has what ``ADADAGRAD_KERNELS_BACKEND`` says. Threads that Python did not start, such
    as those of autograd for GPUs, follow the main thread.

    Args:
        name: ``"auto"``, ``"reference"``, ``"cpu"``, ``"cuda"`` or ``"triton"``. One that cannot
            run is refused by the op, with the reason.

    Raises:
        ValueError: for a name that is no backend; at once, and nothing has changed then.

    Example:
        >>> import torch
        >>> from adadagrad_kernels import ops, use_backend
        >>> with use_backend("reference"):
        ...     ops.batch_moments(torch.eye(2)).sq_norms
        tensor([1., 1.], dtype=torch.float64)
    """

    def __init__(self, name: str) -> None:
        self._name = accepted(name)
        self._previous = [_own.name]
        self._entered = False
        _ask_for(name)

    def __enter__(self) -> None:
        if self._entered:  # the first time, the call itself has noted what was there before
            self._previous.append(_own.name)
        self._entered = True
        _ask_for(self._name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _ask_for(self._previous.pop())

    def __call__(self, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        """Decorates a function; the calls alone run on the backend."""
        _ask_for(self._previous[0])
        name = self._name

        @functools.wraps(function)
        def decorated(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
            with use_backend(name):
                return function(*arguments, **options)

        return decorated


def _ask_for(name: str | None) -> None:
    global _of_main_thread
    _own.name = name
    if threading.current_thread() is threading.main_thread():
        _of_main_thread = name


def _first_choice() -> str:
    if isinstance(threading.current_thread(), threading._DummyThread):
        return _of_main_thread or from_environment()
    _own.name = from_environment()  # so that the next op finds it at once
    return _own.name
