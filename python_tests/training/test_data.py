"""Data sets: sizes, scaling, fixed splits, and errors that name the file."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.data_sets import load_data


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def write_dataset(folder: Path, train: int = 30, test: int = 10, size: int = 8) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, size, size))
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", np.arange(count) % 10)


def test_digits_are_split_once_and_for_all() -> None:
    data = load_data("digits", None)
    assert data.train.inputs.shape == (1437, 1, 8, 8)
    assert data.test.inputs.shape == (360, 1, 8, 8)
    digits = load_digits()
    everything = torch.cat([data.train.inputs, data.test.inputs]).flatten(1) * 16
    labels = torch.cat([data.train.targets, data.test.targets])
    # Every image once, with its own label.
    found = np.c_[everything.numpy(), labels.numpy()]
    expected = np.c_[digits.data, digits.target]
    np.testing.assert_array_equal(sorted(found.tolist()), sorted(expected.tolist()))
    assert torch.bincount(data.test.targets, minlength=10).min() >= 20
    split = hashlib.sha256(data.test.targets.numpy().tobytes()).hexdigest()
    assert split.startswith("7323f6e1154d"), (
        "the split changed: results before and after do not compare"
    )


@pytest.mark.parametrize("inner", ["", "mnist", "MNIST/raw"])
def test_mnist_is_found_where_people_put_it(tmp_path: Path, inner: str) -> None:
    write_dataset(tmp_path / inner)
    data = load_data("mnist", tmp_path)
    assert data.train.inputs.shape == (30, 1, 8, 8)
    assert data.train.inputs.dtype == torch.float32
    raw = gzip.decompress((tmp_path / inner / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    expected = np.frombuffer(raw, np.uint8).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(data.train.inputs.flatten().numpy(), expected)
    assert data.test.targets.tolist() == list(range(10))


def test_real_mnist(data_dir: Path) -> None:
    data = load_data("mnist", data_dir)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.inputs.shape[1:] == (1, 28, 28)
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 1)
    # LeCun's counts of each digit, and the well-known mean of the scaled training images.
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.train.targets).tolist() == counts
    assert data.train.inputs.double().mean().item() == pytest.approx(0.1307, abs=5e-5)


def broken(folder: Path, name: str, array: np.ndarray) -> Path:
    write_dataset(folder)
    write_idx(folder / name, array)
    return folder


def refused(folder: Path, message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        load_data("mnist", folder)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="--data mnist needs --data-dir"):
        load_data("mnist", None)
    refused(tmp_path, r"found no train-images-idx3-ubyte.gz in .* or .*MNIST/raw")
    write_dataset(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    refused(tmp_path, r"t10k-labels-idx1-ubyte.gz: no such file")


def test_labels_out_of_range(tmp_path: Path) -> None:
    labels = np.arange(30) % 10
    labels[7] = 12
    folder = broken(tmp_path, "train-labels-idx1-ubyte.gz", labels)
    refused(folder, r"train-labels.*found label 12 at position 7, expected 0 to 9")


def test_counts_differ(tmp_path: Path) -> None:
    folder = broken(tmp_path, "t10k-labels-idx1-ubyte.gz", np.zeros(9))
    refused(folder, r"t10k-labels.*found 9 labels, expected 10")


@pytest.mark.parametrize("shape", [(0, 8, 8), (30, 0, 8)])
def test_no_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = broken(tmp_path, "train-images-idx3-ubyte.gz", np.zeros(shape))
    refused(folder, "found no pixels")


def test_images_too_small_for_two_poolings(tmp_path: Path) -> None:
    folder = broken(tmp_path, "train-images-idx3-ubyte.gz", np.zeros((30, 3, 8)))
    refused(folder, "expected 4 x 4 pixels or more")


def test_image_sizes_differ(tmp_path: Path) -> None:
    folder = broken(tmp_path, "t10k-images-idx3-ubyte.gz", np.zeros((10, 8, 9)))
    refused(folder, r"training images of 8 x 8 and test images of 8 x 9")


def test_checksum_follows_the_content(tmp_path: Path) -> None:
    def checksum() -> int:
        data: Data = load_data("mnist", tmp_path)
        return data.checksum

    write_dataset(tmp_path)
    before = checksum()
    assert checksum() == before
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(1, 11) % 10)
    assert checksum() != before
