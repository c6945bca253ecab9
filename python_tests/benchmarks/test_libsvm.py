"""The reader of the libsvm format: what is in a file, and which line is wrong and how."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="the reader builds on it")

from adadagrad_kernels.errors import DataFormatError  # noqa: E402
from benchmarks.reproduce.libsvm import csr_rows, read_libsvm  # noqa: E402

TEXT = b"""# three samples
+1 1:0.5 3:-2e1   # a comment

-1 2:1
1
"""
DENSE = [[0.5, 0, -20], [0, 1, 0], [0, 0, 0]]


def write(folder: Path, text: bytes, name: str = "data") -> Path:
    path = folder / name
    pack = {".bz2": bz2.compress, ".gz": gzip.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(text))
    return path


@pytest.mark.parametrize("name", ["data", "data.txt", "data.bz2", "data.gz"])
def test_reads_plain_and_compressed_files(tmp_path: Path, name: str) -> None:
    rows, labels = read_libsvm(write(tmp_path, TEXT, name))
    assert rows.dtype == np.float32
    assert rows.toarray().tolist() == DENSE
    assert labels.tolist() == [1, -1, 1]


def test_features_and_labels_as_asked(tmp_path: Path) -> None:
    path = write(tmp_path, b"7 1:1\n2 2:1\n7 1:3\n")
    rows, labels = read_libsvm(path, features=5, labels="signs")
    assert rows.shape == (3, 5)
    assert labels.dtype == np.float32
    assert labels.tolist() == [1, -1, 1]
    assert read_libsvm(path, labels="classes").labels.tolist() == [1, 0, 1]
    assert read_libsvm(path).labels.tolist() == [7, 2, 7]
    with pytest.raises(ValueError, match="'yes'; accepted are raw, signs, classes"):
        read_libsvm(path, labels="yes")


def test_rows_as_tensors(tmp_path: Path) -> None:
    crow, col, values = csr_rows(read_libsvm(write(tmp_path, TEXT)).rows)
    assert crow.tolist() == [0, 2, 3, 3]
    assert col.tolist() == [0, 2, 1]
    assert values.dtype == torch.float32
    assert crow.dtype == col.dtype


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (b"1 2", "found '2', expected index:value with a colon"),
        (b"1 1:1 2", "found '2', expected index:value with a colon"),
        (b"x 1:1", "found the label 'x', expected a finite number"),
        (b"1:1 2:1", "found the label '1:1'"),
        (b"nan 1:1", "found the label 'nan'"),
        (b"1,2 1:1", "found the label '1,2'"),
        (b"1 a:1", "found the index 'a', expected a whole number"),
        (b"1 2.5:1", "found the index '2.5', expected a whole number"),
        (b"1 qid:3 1:1", "found the index 'qid', expected a whole number"),
        (b"1 1_0:1", "found the index '1_0', expected a whole number"),
        (b"1 0:1", "found the index 0, expected 1 or more"),
        (b"1 -3:1", "found the index -3, expected 1 or more"),
        (b"1 3:1 2:1", "found the index 2 after 3, expected ascending indices"),
        (b"1 3:1 3:1", "found the index 3 after 3, expected ascending indices"),
        (b"1 9:1", "found the index 9, expected at most 4 features"),
        (b"1 2:", "found the value '' at index 2, expected a finite number"),
        (b"1 2:x", "found the value 'x' at index 2"),
        (b"1 2:1:3", "found the value '1:3' at index 2"),
        (b"1 2:1_0", "found the value '1_0' at index 2"),
        (b"1 2:nan", "found the value 'nan' at index 2"),
        (b"1 2:-inf", "found the value '-inf' at index 2"),
        (b"1 2:1e400", "found the value '1e400' at index 2"),
        (b"1 2:1e39", "found the value '1e39' at index 2"),
        (b"1 2:\xff\xfe", "found the value '\ufffd\ufffd' at index 2"),
    ],
    ids=lambda value: value.decode("latin-1") if isinstance(value, bytes) else "",
)
@pytest.mark.parametrize("name", ["data", "data.bz2"])
def test_says_which_line_is_wrong(tmp_path: Path, name: str, row: bytes, fault: str) -> None:
    path = write(tmp_path, b"1 1:1\n\n# comment\n" + row + b"\n-1 2:1\n", name)
    with pytest.raises(DataFormatError) as caught:
        read_libsvm(path, features=4)
    assert str(caught.value).startswith(f"{path}:4: {fault}")


def test_an_index_beyond_all_bounds(tmp_path: Path) -> None:
    path = write(tmp_path, b"1 99999999999:1\n")
    with pytest.raises(DataFormatError, match=r":1: found the index 99999999999, expected at most"):
        read_libsvm(path)


@pytest.mark.parametrize("text", [b"", b"\n\n", b"# nothing\n"])
def test_empty_files(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(DataFormatError, match=r"data\.gz: found no rows, expected 'label"):
        read_libsvm(write(tmp_path, text, "data.gz"))


@pytest.mark.parametrize("name", ["data.bz2", "data.gz"])
@pytest.mark.parametrize("damage", ["cut", "not compressed", "flipped"])
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path, TEXT * 100, name)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-12]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(TEXT if damage == "not compressed" else content)
    with pytest.raises(DataFormatError, match=r"damaged or truncated file .*fetch it again"):
        read_libsvm(path)


def test_a_missing_file_and_labels_that_are_no_signs(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="nowhere: no such file"):
        read_libsvm(tmp_path / "nowhere")
    path = write(tmp_path, b"1 1:1\n2 1:1\n3 1:1\n")
    with pytest.raises(DataFormatError, match=r"labels of 3 classes \(1, 2, 3\), expected two"):
        read_libsvm(path, labels="signs")


# Samples, features, entries of the published files.
KNOWN = {
    "a4a": (4781, 123, 66_290),
    "a9a": (32_561, 123, 451_592),
    "mushrooms": (8124, 112, 170_604),
    "w8a": (49_749, 300, 579_586),
}


@pytest.mark.parametrize("name", KNOWN)
def test_real_files(data_dir: Path, name: str) -> None:
    path = data_dir / "libsvm" / f"{name}.bz2"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    samples, features, entries = KNOWN[name]
    rows, labels = read_libsvm(path, features=features, labels="signs")
    assert rows.shape == (samples, features)
    assert rows.nnz == entries
    theirs, raw = sklearn_datasets.load_svmlight_file(str(path), n_features=features)
    assert (rows != theirs.astype(np.float32)).nnz == 0
    assert np.array_equal(labels, np.where(raw == raw.max(), 1, -1))
    by_hand = bz2.decompress(path.read_bytes()).decode().splitlines()
    for i in (0, 17, samples - 1):
        label, *words = by_hand[i].split()
        pairs = [word.split(":") for word in words]
        assert labels[i] == (1 if float(label) == raw.max() else -1)
        assert (rows[i].indices + 1).tolist() == [int(index) for index, _ in pairs]
        assert rows[i].data.tolist() == [np.float32(value) for _, value in pairs]
