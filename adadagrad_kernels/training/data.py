"""Training and test sets, held in memory as tensors: MNIST's files, scikit-learn's digits."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.optional import require
from adadagrad_kernels.training.idx import read_idx
from adadagrad_kernels.training.objectives import CLASSIFICATION, Objective

CLASSES = 10
DIGITS_TEST_SAMPLES = 360

#: The training loss along the way is that of the first samples; only the last one is of all.
TRAIN_SAMPLES = 10_000

# Where the four idx files may lie below --data-dir: in it, in a folder named like the data set,
# or where torchvision puts them.
_FOLDERS = {
    "mnist": ("", "mnist", "MNIST/raw"),
    "fashion-mnist": ("", "fashion-mnist", "FashionMNIST/raw"),
}


@dataclass(frozen=True)
class Samples:
    """Inputs `[samples, ...]` of a model, and their targets `[samples, ...]`, such as classes.

    Images are `[samples, channels, height, width]`, in [0, 1].
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Copies the samples with these indices."""
        return self.inputs.index_select(0, indices), self.targets.index_select(0, indices)

    def first(self, count: int) -> Samples:
        """Returns the first `count` samples, as a view."""
        return Samples(self.inputs[:count], self.targets[:count])

    def parts(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields all samples, so many at a time, as views."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.inputs[part], self.targets[part]


@dataclass(frozen=True)
class Data:
    """A training and a test set, and what is to be learnt of them.

    Attributes:
        train: to learn from.
        test: to be judged by.
        checksum: by which a checkpoint knows them again.
        classes: how many there are.
        objective: the loss, and what counts as right.
        train_samples: of the training set that an evaluation along the way takes, from the first.
    """

    train: Samples
    test: Samples
    checksum: int
    classes: int = CLASSES
    objective: Objective = CLASSIFICATION
    train_samples: int = TRAIN_SAMPLES


def idx_files(name: str, folder: Path | None) -> Data:
    """Loads MNIST or Fashion-MNIST.

    Args:
        name: ``mnist`` or ``fashion-mnist``.
        folder: Where the idx files are, see `--data-dir`.

    Raises:
        DataFormatError: A file is missing, truncated, or not what its name promises.
    """
    if folder is None:
        raise DataFormatError(
            f"--data {name} needs --data-dir: the folder with train-images-idx3-ubyte.gz, "
            "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
        )
    source = _find_folder(name, folder)
    parts = {split: _read_split(source, split) for split in ("train", "t10k")}
    train, test = ("{1} x {2}".format(*images.shape) for images, _ in parts.values())
    if train != test:
        raise DataFormatError(
            f"{source}: found training images of {train} and test images of {test}, "
            "expected one size"
        )
    return _from_bytes(*parts["train"], *parts["t10k"], scale=255)


def digits(folder: Path | None = None) -> Data:
    """Scikit-learn's digits, split once and for all into 1,437 training and 360 test images.

    Raises:
        MissingDependencyError: Without scikit-learn.
    """
    found = require("sklearn.datasets", "--data digits").load_digits()
    images, labels = found.images.astype(np.uint8), found.target.astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[:DIGITS_TEST_SAMPLES], order[DIGITS_TEST_SAMPLES:]
    return _from_bytes(images[train], labels[train], images[test], labels[test], scale=16)


def _find_folder(name: str, folder: Path) -> Path:
    candidates = [folder / inner for inner in _FOLDERS[name]]
    for candidate in candidates:
        if (candidate / "train-images-idx3-ubyte.gz").exists():
            return candidate
    raise DataFormatError(
        f"--data {name}: found no train-images-idx3-ubyte.gz in "
        + " or ".join(str(candidate) for candidate in candidates)
        + "; give the folder of the four files as --data-dir"
    )


def _read_split(folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    image_path = folder / f"{split}-images-idx3-ubyte.gz"
    label_path = folder / f"{split}-labels-idx1-ubyte.gz"
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if images.size == 0:
        raise DataFormatError(f"{image_path}: found no pixels in {images.shape}, expected images")
    if min(images.shape[1:]) < 4:
        raise DataFormatError(
            f"{image_path}: found images of {images.shape[1:]}, expected 4 x 4 pixels or more"
        )
    if len(images) != len(labels):
        raise DataFormatError(
            f"{label_path}: found {len(labels)} labels, expected {len(images)}, "
            f"one for each image of {image_path.name}"
        )
    if labels.max() >= CLASSES:
        position = int(labels.argmax())
        raise DataFormatError(
            f"{label_path}: found label {labels[position]} at position {position}, "
            f"expected 0 to {CLASSES - 1}"
        )
    return images, labels


def _from_bytes(*arrays: npt.NDArray[np.uint8], scale: int) -> Data:
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array.tobytes(), checksum)
    train_images, train_labels, test_images, test_labels = arrays
    return Data(
        _samples(train_images, train_labels, scale),
        _samples(test_images, test_labels, scale),
        checksum,
    )


def _samples(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], scale: int) -> Samples:
    pixels = torch.from_numpy(images.astype(np.float32)).div_(scale)
    return Samples(pixels.unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
