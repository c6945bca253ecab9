"""A table of comma-separated values."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from adadagrad_kernels.files import naming, replace_file
from adadagrad_kernels.writers.metrics_file import plain
from adadagrad_kernels.writers.protocol import ClosingWriter, Value, with_place

_ROWS_AT_ONCE = 1000


class CsvWriter(ClosingWriter):
    """Writes a CSV table: one header, one row per call.

    ``samples_seen`` and ``steps`` come first, then every name in the order of its first
    appearance. A name that appears later, as those of evaluations do, adds a column: the file is
    rewritten with an empty cell in the earlier rows, and replaces the old one when it is complete.
    So at every moment ``csv.DictReader`` and ``pandas.read_csv`` can read the file, except for a
    last row that a kill cut off. An empty cell means that there was no such metric; numbers that
    are not finite are written ``nan``, ``inf`` and ``-inf``.

    Args:
        path: The file, which begins anew; its folder is made.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> with CsvWriter(path) as writer:
        ...     writer.write({"loss": 2.5}, samples=8, step=1)
        ...     writer.write({"loss": 1.5, "test_accuracy": 0.75}, samples=16, step=2)
        >>> print(path.read_text(), end="")
        samples_seen,steps,loss,test_accuracy
        8,1,2.5,
        16,2,1.5,0.75
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._columns: list[str] = []
        # Unbuffered: after a full disk nothing is left over that a later close would try again.
        self._file = self._path.open("wb", buffering=0)

    def write(self, metrics: Mapping[str, Value], *, samples: int, step: int) -> None:
        """Appends one row; a new name adds a column.

        Raises:
            OSError: The row could not be written, as on a full disk; the rows before are there.
        """
        row = with_place(metrics, samples, step)
        new = [name for name in row if name not in self._columns]
        if new:
            self._add_columns(new)
        rest = _encode([[_cell(row[name]) if name in row else "" for name in self._columns]])
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise naming(error, self._path) from error

    def close(self) -> None:
        """Makes the table durable and closes the file."""
        if not self._file.closed:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise naming(error, self._path) from error
            finally:
                self._file.close()

    def _add_columns(self, names: Sequence[str]) -> None:
        columns = [*self._columns, *names]
        replace_file(self._path, self._widened(columns, len(names)))
        self._file.close()
        self._file = self._path.open("ab", buffering=0)
        self._columns = columns

    def _widened(self, columns: Sequence[str], new: int) -> Iterator[bytes]:
        yield _encode([columns])
        with self._path.open(newline="", encoding="utf-8") as old:
            rows = csv.reader(old)
            next(rows, None)
            chunk = []
            for row in rows:
                chunk.append(row + [""] * new)
                if len(chunk) == _ROWS_AT_ONCE:
                    yield _encode(chunk)
                    chunk = []
            yield _encode(chunk)


def _cell(value: Value) -> str:
    # The shortest text that reads back as the same number.
    return "nan" if value is None else str(plain(value))


def _encode(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
