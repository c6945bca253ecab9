"""The error that ends one process, left where the others look when they lose it."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, ClassVar

import torch.distributed as dist

from adadagrad_kernels.errors import class_named
from adadagrad_kernels.ranks import own_rank, world_size

#: Of a lost connection under gloo and NCCL, and of this package where one is lost.
_LOST = ("gloo", "NCCL", "Connection closed", "did not get the numbers of the others")
_KEY = "adadagrad_kernels/error of rank "


class shared_errors:  # noqa: N801 (a context manager, as layer_statistics)
    """An error inside of this context on one rank ends the others with that error too.

    What is exchanged in a step carries its own errors. A data set, a loss or a model that raises on
    one rank exchanges nothing: that process ends, and the others see a connection that breaks. Here
    it leaves its error in the store by which the processes have met, and the others raise it in
    place of theirs, with the number of its rank. ``layer_statistics`` over several ranks does that
    by itself for what runs inside of it; this is for loops around other sources and trainers.

    The store is that of ``init_process_group``. torchrun keeps it alive; where rank 0 does, as with
    ``init_method="tcp://..."``, its own error is lost with it. NCCL does not notice a process that
    has ended before the group's ``timeout``. A process alone raises as ever.

    Raises:
        Exception: inside of the context, on every rank; of the same class where that is one of this
            package's or ValueError, else RuntimeError.

    Example:
        >>> from adadagrad_kernels.distributed import shared_errors
        >>> with shared_errors():
        ...     pass  # the loop
    """

    #: Whether this process has left an error, which it then survived.
    _left: ClassVar[bool] = False

    def __enter__(self) -> shared_errors:
        if shared_errors._left and world_size() > 1:
            _store().delete_key(f"{_KEY}{own_rank()}")
        shared_errors._left = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or world_size() == 1:
            return
        if _is_lost_connection(error):
            found = _error_of_another()
            if found is not None:
                raise found from error
        elif not _is_lost_connection(error.__cause__):  # as of one that was found here
            # The process ends by its own error, also where nobody can be told any more.
            with contextlib.suppress(RuntimeError):
                _store().set(f"{_KEY}{own_rank()}", f"{type(error).__name__}\n{error}")
                shared_errors._left = True


def _is_lost_connection(error: BaseException | None) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    return isinstance(error, dist.DistError) or any(words in said for words in _LOST)


def _error_of_another() -> Exception | None:
    """That of the first rank that has left one; None also where the store is gone."""
    store = _store()
    with contextlib.suppress(RuntimeError):
        for rank in range(world_size()):
            key = f"{_KEY}{rank}"
            if rank != own_rank() and store.check([key]):
                name, _, reason = store.get(key).decode(errors="replace").partition("\n")
                kind = class_named(name)
                reason = reason if kind.__name__ == name else f"{name}: {reason}"
                return kind(f"rank {rank}: {reason}")
    return None


def _store() -> Any:
    """The one of the default group, which torch has no public name for."""
    return dist.distributed_c10d._get_default_store()
