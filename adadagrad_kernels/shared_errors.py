"""The error that ends one process, left where the others look when they lose it."""

from __future__ import annotations

import contextlib
import os
import threading
from types import TracebackType
from typing import Any, ClassVar

import torch.distributed as dist

from adadagrad_kernels.errors import class_named
from adadagrad_kernels.ranks import own_rank, world_size

#: Of a lost connection under gloo, and of this package where one is lost.
_LOST = ("gloo/transport", "did not get the numbers of the others")
#: Seconds in which the store is to answer.
_PATIENCE = 5.0


class shared_errors:  # noqa: N801 (a context manager, as layer_statistics)
    """An error inside of this context on one rank ends the others with that error too.

    What is exchanged in a step carries its own errors. A data set, a loss or a model that raises on
    one rank exchanges nothing: that process ends, and the others lose the connection to it. Here it
    leaves its error in the store by which the processes have met, and the others raise it in place
    of theirs, with the number of its rank. ``layer_statistics`` over several ranks does that by
    itself for what runs inside of it; this is for loops around other sources and trainers.

    The store is that of ``init_process_group``. Where rank 0 keeps it and not the launcher, its own
    error is lost with it. gloo notices a process that has ended; NCCL ends the others by a signal
    after the group's ``timeout``, where no code runs that could raise. A process alone raises as
    ever.

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

    def __init__(self) -> None:
        self._place: _Place | None = None

    def __enter__(self) -> shared_errors:
        self._place = _Place() if world_size() > 1 else None
        self._take_back()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The group may be gone by now, or have come only here.
        place = self._place or (_Place() if world_size() > 1 else None)
        self._place = None
        if place is None or not isinstance(error, Exception):
            if error is None:
                self._take_back()
            return
        if _is_lost_connection(error):
            found = place.error_of_another()
            if found is not None:
                raise found from error
        elif not _is_lost_connection(error.__cause__):  # as of one that was found here
            place.leave(error)
            shared_errors._left = True

    def _take_back(self) -> None:
        if shared_errors._left and world_size() > 1:
            _Place().take_back()
        shared_errors._left = False


class _Place:
    """Where the errors of a group's processes are left: its store, which torch has no name for."""

    def __init__(self) -> None:
        self._store: Any = dist.distributed_c10d._get_default_store()
        self._rank, self._size = own_rank(), world_size()

    def leave(self, error: Exception) -> None:
        """This process ends by its own error, also where nobody can be told any more."""
        with contextlib.suppress(Exception):
            said = f"{type(error).__name__}\n{error}".encode(errors="backslashreplace")
            self._store.set(self._key(self._rank), said.decode())

    def take_back(self) -> None:
        """What was left, and survived."""
        with contextlib.suppress(Exception):
            self._store.delete_key(self._key(self._rank))

    def error_of_another(self) -> Exception | None:
        """That of the first rank that has left one; None also where the store does not answer."""
        found: list[Exception] = []

        def look() -> None:
            with contextlib.suppress(Exception):
                for rank in range(self._size):
                    if rank != self._rank and self._store.check([self._key(rank)]):
                        found.append(_named(rank, self._store.get(self._key(rank)).decode()))
                        return

        # A store whose machine is gone keeps whoever asks it waiting.
        looks = threading.Thread(target=look, daemon=True)
        looks.start()
        looks.join(_PATIENCE)
        return found[0] if found else None

    def _key(self, rank: int) -> str:
        # torchrun's store outlives a restart of the processes.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return f"adadagrad_kernels/{attempt}/error of rank {rank}"


def _named(rank: int, said: str) -> Exception:
    name, _, reason = said.partition("\n")
    kind = class_named(name)
    reason = reason if kind.__name__ == name else f"{name}: {reason}"
    return kind(f"rank {rank}: {reason}")


def _is_lost_connection(error: BaseException | None) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    said = str(error)
    return isinstance(error, dist.DistError) or any(words in said for words in _LOST)
