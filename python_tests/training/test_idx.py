"""The idx reader accepts what is right to the last byte, and names what is not."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.training.idx import read_idx

IMAGES = np.arange(5 * 4 * 6, dtype=np.uint8).reshape(5, 4, 6)


def idx_bytes(array: np.ndarray, kind: int = 0x08) -> bytes:
    header = struct.pack(">HBB", 0, kind, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


def test_reads_the_array(tmp_path: Path) -> None:
    path = write(tmp_path / "images.gz", idx_bytes(IMAGES))
    np.testing.assert_array_equal(read_idx(path, 3), IMAGES)
    labels = np.array([3, 1, 4], dtype=np.uint8)
    np.testing.assert_array_equal(read_idx(write(tmp_path / "l.gz", idx_bytes(labels)), 1), labels)


WRONG_CONTENT = {
    "empty": (b"", r"\(empty file\), expected 0x00000803"),
    "wrong element type": (idx_bytes(IMAGES, kind=0x0D), "found magic number 0x00000d03"),
    "wrong number of dimensions": (idx_bytes(IMAGES[0]), "found magic number 0x00000802"),
    "header cut": (idx_bytes(IMAGES)[:11], "found a header of 11 bytes, expected 16"),
    "data cut": (idx_bytes(IMAGES)[:-1], "promises 5 x 4 x 6 = 120 bytes of data, found 119"),
    "surplus data": (idx_bytes(IMAGES) + b"\0", "= 120 bytes of data, found more than that"),
    "absurd size": (
        struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1),
        r"more than a \.gz file of \d+ bytes can hold",
    ),
}


@pytest.mark.parametrize("name", WRONG_CONTENT)
def test_wrong_content_is_named(tmp_path: Path, name: str) -> None:
    content, message = WRONG_CONTENT[name]
    path = write(tmp_path / "images.gz", content)
    with pytest.raises(DataFormatError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 255, (9, 8, 8), np.uint8)))
    damaged = {
        "not gzip": b"<html>404</html>",
        "truncated in the data": whole[: len(whole) // 2],
        "truncated in the checksum": whole[:-3],
        "a bit flipped": whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:],
        "wrong checksum": whole[:-8] + b"\0\0\0\0" + whole[-4:],
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.gz"
        path.write_bytes(content)
        with pytest.raises(DataFormatError, match="damaged or truncated gzip stream"):
            read_idx(path, 3)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"absent\.gz: no such file"):
        read_idx(tmp_path / "absent.gz", 3)
