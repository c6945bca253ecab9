"""The libsvm format, read strictly: `label index:value index:value ...`, indices from 1 ascending.

scikit-learn's reader is fast and says little of what is wrong, and lets some of it pass. What it
refuses, and what it made of a file that shows a fault, is gone through again line by line.
"""

from __future__ import annotations

import bz2
import gzip
import io
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import scipy.sparse
import torch
from sklearn.datasets import load_svmlight_file

from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.ops import CsrRows

OPENERS: dict[str, Callable[[Path], bytes]] = {
    ".bz2": lambda path: bz2.decompress(path.read_bytes()),
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
}
LABELS = ("raw", "signs", "classes")

_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INDEX = re.compile(rb"[+-]?\d+")
_LARGEST_INDEX = 2**31 - 1


class Samples(NamedTuple):
    """Rows ``[samples, features]``, CSR float32 with sorted columns from 0; and their labels."""

    rows: scipy.sparse.csr_matrix
    labels: np.ndarray


def read_libsvm(path: Path, features: int | None = None, labels: str = "raw") -> Samples:
    """Read one file, plain or compressed as its name says (`.bz2`, `.gz`).

    Empty lines and what follows a `#` are skipped, as by libsvm's own tools.

    Args:
        path: The file.
        features: How many there are; the largest index of the file where not given.
        labels: ``raw``: float64, as in the file. ``signs``: of two classes the smaller is -1 and
            the larger 1, float32. ``classes``: numbered from 0 in ascending order, int64.

    Raises:
        DataFormatError: The file is missing, damaged or empty, a row is malformed or has an index
            above ``features``, or its labels are not of two classes where signs are asked.
        ValueError: For another kind of labels.
    """
    if labels not in LABELS:
        raise ValueError(f"labels is {labels!r}; accepted are {', '.join(LABELS)}")
    text = _text(path)
    try:
        rows, raw = load_svmlight_file(io.BytesIO(text), zero_based=False, dtype=np.float64)
    except (ValueError, OverflowError) as error:
        _explain(path, text, features, str(error))
    if not len(raw):
        raise DataFormatError(f"{path}: found no rows, expected 'label index:value ...' in each")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    finite = np.isfinite(rows.data).all() and np.isfinite(raw).all()
    fits = features is None or rows.shape[1] <= features
    # Python's numbers may have underscores; other sorts of rows have a query in front.
    if not finite or not fits or b"_" in text or b"qid" in text:
        _explain(path, text, features, "it has numbers that are not finite")
    rows.resize(rows.shape[0], rows.shape[1] if features is None else features)
    return Samples(rows, _labels(path, raw, labels))


def csr_rows(rows: scipy.sparse.csr_matrix) -> CsrRows:
    """The same rows as tensors, which share the matrix's memory."""
    return CsrRows(*(torch.from_numpy(part) for part in (rows.indptr, rows.indices, rows.data)))


def _text(path: Path) -> bytes:
    opener = OPENERS.get(path.suffix, Path.read_bytes)
    try:
        return opener(path)
    except FileNotFoundError:
        raise DataFormatError(f"{path}: no such file") from None
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise DataFormatError(
            f"{path}: found a damaged or truncated file ({error}), expected a complete "
            f"{path.suffix} file; fetch it again"
        ) from error


def _labels(path: Path, raw: np.ndarray, kind: str) -> np.ndarray:
    if kind == "raw":
        return raw
    classes, places = np.unique(raw, return_inverse=True)
    if kind == "classes":
        return places.astype(np.int64)
    if len(classes) != 2:
        shown = ", ".join([f"{value:g}" for value in classes[:5]] + ["..."] * (len(classes) > 5))
        raise DataFormatError(
            f"{path}: found labels of {len(classes)} classes ({shown}), expected two for signs"
        )
    return (2 * places - 1).astype(np.float32)


def _explain(path: Path, text: bytes, features: int | None, otherwise: str) -> NoReturn:
    """Raise with the first line that is not right, or ``otherwise`` where none is found."""
    for number, line in enumerate(text.split(b"\n"), start=1):
        words = line.partition(b"#")[0].split()
        fault = words and _fault(words, features)
        if fault:
            raise DataFormatError(f"{path}:{number}: {fault}")
    raise DataFormatError(f"{path}: found no row that is wrong, and yet {otherwise}")


def _fault(words: list[bytes], features: int | None) -> str | None:
    """What is wrong with a row, and what was expected."""
    label, *entries = words
    if not _is_finite(label):
        return f"found the label {_shown(label)}, expected a finite number"
    last = 0
    for entry in entries:
        index, colon, value = entry.partition(b":")
        if not colon:
            return f"found {_shown(entry)}, expected index:value with a colon"
        if not _INDEX.fullmatch(index):
            return f"found the index {_shown(index)}, expected a whole number"
        if int(index) < 1:
            return f"found the index {int(index)}, expected 1 or more"
        if int(index) <= last:
            return f"found the index {int(index)} after {last}, expected ascending indices"
        if int(index) > (_LARGEST_INDEX if features is None else features):
            most = _LARGEST_INDEX if features is None else features
            return f"found the index {int(index)}, expected at most {most} features"
        if not _is_finite(value):
            return (
                f"found the value {_shown(value)} at index {int(index)}, expected a finite number"
            )
        last = int(index)
    return None


def _is_finite(word: bytes) -> bool:
    with np.errstate(over="ignore"):
        return bool(_NUMBER.fullmatch(word)) and bool(np.isfinite(np.float32(float(word))))


def _shown(word: bytes) -> str:
    return repr(word[:40].decode("utf-8", "replace"))
