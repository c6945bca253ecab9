"""The tasks that several experiments share: data, models, evaluations."""

from __future__ import annotations

import bz2
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import Options
from torch import Tensor, nn
from torch.nn import functional as F
from training import Task

from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.training.data import CLASSES, Data, Samples
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.evaluation import evaluate
from adadagrad_kernels.training.models import MODELS

# The decoder that training steps are timed on. Its folder is first while `benchmarks` is found:
# Opacus installs another one.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.train_steps.models import Decoder

sys.path.remove(str(Path(__file__).resolve().parents[2]))

#: Samples on which the training loss is evaluated along the way.
TRAIN_SAMPLES = 2000


def images(model: str, options: Options) -> Callable[[], Task]:
    """MNIST, or scikit-learn's digits at smoke size, with one of the paper's two models."""

    def make() -> Task:
        data = load_images(options)
        return classification(data, partial(MODELS[model], data.train.inputs.shape[1:], CLASSES))

    return make


def load_images(options: Options) -> Data:
    """MNIST, or scikit-learn's digits at smoke size; read once."""
    return _loaded("digits" if options.size == "smoke" else "mnist", options.data_dir)


@cache
def _loaded(name: str, folder: Path | None) -> Data:
    return load_data(name, folder)


def classification(data: Data, build: Callable[[], nn.Module]) -> Task:
    """Images with labels, cross-entropy, accuracy on the test set."""

    def metrics(model: nn.Module) -> dict[str, float]:
        train_loss, _ = evaluate(model, data.train.first(TRAIN_SAMPLES))
        test_loss, test_accuracy = evaluate(model, data.test)
        return {"train_loss": train_loss, "test_loss": test_loss, "test_accuracy": test_accuracy}

    return Task(
        data.train.inputs,
        data.train.targets,
        build,
        partial(F.cross_entropy, reduction="sum"),
        metrics,
    )


def cifar(options: Options, build: Callable[[], nn.Module]) -> Callable[[], Task]:
    """A part of CIFAR-10, in [-1, 1]; made-up images at smoke size."""

    def make() -> Task:
        if options.size == "smoke":
            return classification(made_up_images(), build)
        return classification(_cifar(options.data_dir), build)

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

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        # A sample is a sequence, and its loss the mean over its characters.
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum") / tokens

    def mean_loss(model: nn.Module, rows: slice) -> float:
        with torch.no_grad():
            parts = zip(inputs[rows].split(64), targets[rows].split(64), strict=True)
            return sum(loss(model(x), y).item() for x, y in parts) / len(targets[rows])

    def metrics(model: nn.Module) -> dict[str, float]:
        return {
            "train_loss": mean_loss(model, slice(256)),
            "test_loss": mean_loss(model, slice(border, border + 256)),
        }

    build = partial(Decoder, len(letters), tokens, layers, width)
    return Task(inputs[:border], targets[:border], build, loss, metrics)


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


def linear(
    inputs: Any,
    targets: Tensor,
    held_out: tuple[Any, Tensor],
    build: Callable[[], nn.Module],
    whole: Any = None,
) -> Task:
    """Logistic regression, or any model with one output, and labels 0 and 1.

    Args:
        whole: all inputs at once, where ``inputs`` can only be picked from.
    """
    everything = inputs if whole is None else whole

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="sum")

    def metrics(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            found, held = model(everything).squeeze(1), model(held_out[0]).squeeze(1)
        return {
            "train_loss": F.binary_cross_entropy_with_logits(found, targets).item(),
            "test_loss": F.binary_cross_entropy_with_logits(held, held_out[1]).item(),
            "test_accuracy": ((held > 0) == (held_out[1] > 0)).float().mean().item(),
        }

    return Task(inputs, targets, build, loss, metrics)
