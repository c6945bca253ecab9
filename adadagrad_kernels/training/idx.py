"""The idx format of MNIST and Fashion-MNIST, read strictly.

An idx file is two zero bytes, one byte for the element type (8: unsigned bytes), one byte for the
number of dimensions, a big-endian 32-bit size for each dimension, and the elements in C order
(http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adadagrad_kernels.errors import DataFormatError

UNSIGNED_BYTE = 0x08

# Deflate cannot shrink data further than this, so a header that promises more is wrong; knowing it
# before reading keeps a damaged size from asking for terabytes.
MAX_COMPRESSION = 1032


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Reads one gzip-compressed idx file of unsigned bytes, and every byte of it is accounted for.

    Args:
        path: The `.gz` file.
        dimensions: How many dimensions the array must have (3 for images, 1 for labels).

    Returns:
        The array, `[samples, height, width]` for images and `[samples]` for labels.

    Raises:
        DataFormatError: The file is missing, truncated, longer than its header says, fails gzip's
            checksum, or is of another format.
    """
    try:
        with gzip.open(path, "rb") as file:
            shape = _read_header(path, file.read(4 + 4 * dimensions), dimensions)
            expected = math.prod(shape)
            _check_plausible(path, shape)
            # One byte more than expected: it shows surplus data, and reaching the end of the
            # stream is what makes gzip compare its checksum.
            content = file.read(expected + 1)
    except FileNotFoundError:
        raise DataFormatError(
            f"{path}: no such file; --data-dir must hold the four .gz files under their own names"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(
            f"{path}: found a damaged or truncated gzip stream ({error}), "
            "expected a complete .gz file; fetch it again"
        ) from error
    if len(content) != expected:
        found = f"{len(content)} bytes" if len(content) < expected else "more than that"
        raise DataFormatError(
            f"{path}: the header promises {_times(shape)} = {expected} bytes of data, found "
            f"{found}; fetch the file again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_header(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    expected = struct.pack(">HBB", 0, UNSIGNED_BYTE, dimensions)
    if header[:4] != expected:
        raise DataFormatError(
            f"{path}: found magic number 0x{header[:4].hex() or '(empty file)'}, "
            f"expected 0x{expected.hex()} (idx, unsigned bytes, {dimensions} dimensions)"
        )
    if len(header) != 4 + 4 * dimensions:
        raise DataFormatError(
            f"{path}: found a header of {len(header)} bytes, expected {4 + 4 * dimensions}"
        )
    return struct.unpack(f">{dimensions}I", header[4:])


def _check_plausible(path: Path, shape: tuple[int, ...]) -> None:
    size = path.stat().st_size
    if math.prod(shape) > size * MAX_COMPRESSION:
        raise DataFormatError(
            f"{path}: the header promises {_times(shape)} bytes of data, more than a .gz file of "
            f"{size} bytes can hold; fetch the file again"
        )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
