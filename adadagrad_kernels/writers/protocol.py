"""What every writer of metrics can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, TypeAlias, runtime_checkable

from typing_extensions import Self

# None stands for a number that was not finite and came from a file that cannot write it.
Value: TypeAlias = float | int | str | None


@runtime_checkable
class MetricsWriter(Protocol):
    """Takes the metrics of a step; also a context manager that closes itself.

    The place of a step is passed beside the metrics, because it is the axis of every curve: how
    many samples were seen, and in how many steps. If the metrics also hold ``samples_seen`` and
    ``steps``, the arguments win.
    """

    def write(self, metrics: Mapping[str, Value], *, samples: int, step: int) -> None:
        """Takes the metrics of one step.

        Args:
            metrics: Flat: numbers or short texts by name. Which names there are may change from
                one call to the next.
            samples: Samples seen up to and with this step.
            step: Steps up to and with this one.
        """

    def close(self) -> None:
        """Finishes what was written; a second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class ClosingWriter(ABC):
    """The context manager of the writers here: they differ in ``write`` and ``close`` alone."""

    @abstractmethod
    def close(self) -> None:
        """Finishes what was written; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def with_place(metrics: Mapping[str, Value], samples: int, step: int) -> dict[str, Value]:
    """Returns the metrics with their place under its usual names, in front."""
    place = {"samples_seen": samples, "steps": step}
    return {**place, **{name: value for name, value in metrics.items() if name not in place}}
