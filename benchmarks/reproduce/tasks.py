"""The tasks that several experiments share: data, models, what is minimized."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import CLASSES, Data, Samples
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.models import MODELS
from adadagrad_kernels.training.objectives import Objective
from benchmarks.reproduce.results import Options
from benchmarks.train_steps.models import Decoder


def nothing(model: nn.Module) -> dict[str, float]:
    """No metrics beside losses and accuracy."""
    return {}


@dataclass(frozen=True)
class Task:
    """A model and what it is trained on.

    Attributes:
        name: what it is.
        data: training and test set, and what is minimized.
        build: makes the model, from torch's random state.
        also: from a model to metrics beside losses and accuracy.
        trainer: makes the training of a configuration, data and ``build``.
    """

    name: str
    data: Data
    build: Callable[[], nn.Module]
    also: Callable[[nn.Module], dict[str, float]] = nothing
    trainer: Callable[[RunConfig, Data, Callable[[], nn.Module]], Trainer] = Trainer


#: Samples on which the training loss is evaluated along the way.
TRAIN_SAMPLES = 2000
#: Of a text, sequences that are evaluated, of either set.
SEQUENCES = 256


def images(model: str, options: Options) -> Callable[[], Task]:
    """MNIST, or scikit-learn's digits at smoke size, with one of the paper's two models."""

    def make() -> Task:
        data = load_images(options)
        build = partial(MODELS[model], data.train.inputs.shape[1:], CLASSES)
        return classification(model, data, build)

    return make


def load_images(options: Options) -> Data:
    """MNIST, or scikit-learn's digits at smoke size; read once."""
    return _loaded("digits" if options.size == "smoke" else "mnist", options.data_dir)


@cache
def _loaded(name: str, folder: Path | None) -> Data:
    return load_data(name, folder)


def classification(name: str, data: Data, build: Callable[[], nn.Module]) -> Task:
    """Images with labels, cross-entropy, accuracy on the test set."""
    return Task(name, replace(data, train_samples=TRAIN_SAMPLES), build)


def cifar(options: Options, build: Callable[[], nn.Module]) -> Callable[[], Task]:
    """A part of CIFAR-10, in [-1, 1]; made-up images at smoke size."""

    def make() -> Task:
        if options.size == "smoke":
            return classification("CIFAR-10", made_up_images(), build)
        return classification("CIFAR-10", _cifar(options.data_dir), build)

    return make


@cache
def _cifar(folder: Path | None) -> Data:
    path = required(folder, "cifar10_subset.npz")
    with np.load(path) as arrays:
        parts = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    train, test = (
        Samples(parts[f"{split}_images"].float() / 127.5 - 1, parts[f"{split}_labels"].long())
        for split in ("train", "test")
    )
    return Data(train, test, checksum=0)


def made_up_images() -> Data:
    """Noise around a pattern for each class."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(CLASSES, 3, 32, 32, generator=generator)

    def samples(count: int) -> Samples:
        labels = torch.randint(CLASSES, (count,), generator=generator)
        noise = torch.randn(count, 3, 32, 32, generator=generator)
        return Samples(0.3 * patterns[labels] + noise, labels)

    return Data(samples(100), samples(20), checksum=0)


def text(options: Options, *, tokens: int, layers: int, width: int) -> Callable[[], Task]:
    """The next character of tiny shakespeare, by a decoder; nine tenths of it to train on."""

    def make() -> Task:
        return _text(_read_text(options), tokens, layers, width)

    return make


def fine_tuning(options: Options, tokens: int, layers: int, width: int) -> tuple[Task, Task]:
    """Austen's novels and Shakespeare's plays, by one alphabet."""
    plays = _read_text(options)
    novels = (
        plays[::-1] if options.size == "smoke" else _decompressed(options, "austen")[:1_000_000]
    )
    letters = "".join(sorted({*plays, *novels}))
    before, after = (_text(part, tokens, layers, width, letters) for part in (novels, plays))
    return before, after


def _text(content: str, tokens: int, layers: int, width: int, letters: str = "") -> Task:
    letters = letters or "".join(sorted(set(content)))
    numbers = {letter: number for number, letter in enumerate(letters)}
    codes = torch.tensor([numbers[letter] for letter in content])
    inputs = codes[: (len(codes) - 1) // tokens * tokens].view(-1, tokens)
    targets = codes[1 : inputs.numel() + 1].view(-1, tokens)
    border = len(inputs) * 9 // 10

    train, test = (
        Samples(inputs[part], targets[part])
        for part in (slice(border), slice(border, border + SEQUENCES))
    )
    data = Data(
        train, test, checksum=0, objective=Objective(sequence_loss), train_samples=SEQUENCES
    )
    return Task("text", data, partial(Decoder, len(letters), tokens, layers, width))


def sequence_loss(outputs: Tensor, targets: Tensor, /, *, reduction: str = "mean") -> Tensor:
    """A sample is a sequence, and its loss the mean cross-entropy of its characters."""
    each = "none" if reduction == "none" else "sum"
    losses = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction=each)
    if reduction == "none":
        return losses.view(targets.shape).mean(1)
    total = losses / targets.shape[1]
    return total if reduction == "sum" else total / len(targets)


def _read_text(options: Options) -> str:
    if options.size == "smoke":
        generator = np.random.default_rng(0)
        words = generator.choice(["to be", "or not", "that is", "the question"], 1000)
        return " ".join(words)
    return _decompressed(options, "tinyshakespeare")


def _decompressed(options: Options, name: str) -> str:
    path = required(options.data_dir, f"text/{name}.txt.bz2")
    return bz2.decompress(path.read_bytes()).decode("utf-8")


def required(folder: Path | None, name: str) -> Path:
    """The path of a data file.

    Raises:
        DataFormatError: where it is not there.
    """
    if folder is None:
        raise DataFormatError(f"--data-dir is needed: the folder with {name}")
    if not (folder / name).exists():
        raise DataFormatError(f"{folder / name}: no such file")
    return folder / name


def _side_loss(outputs: Tensor, targets: Tensor, /, *, reduction: str = "mean") -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction=reduction)


#: Labels are 0 and 1, and the one output is the score of the second.
SIDES = Objective(_side_loss, lambda scores, labels: (scores.squeeze(1) > 0) == (labels > 0))


def linear(name: str, train: Samples, test: Samples, build: Callable[[], nn.Module]) -> Task:
    """Logistic regression, or any model with one output, and labels 0 and 1."""
    data = Data(train, test, checksum=0, classes=2, objective=SIDES, train_samples=len(train))
    return Task(name, data, build)
