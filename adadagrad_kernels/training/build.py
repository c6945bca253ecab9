"""The parts of a run, made of its configuration and data."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from adadagrad_kernels.batching import BatchSizeSchedule
from adadagrad_kernels.criteria import BatchSizeCriterion
from adadagrad_kernels.training.catalogue import CONSTANTS, OPTIMIZERS, TESTS, Task
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.errors import UsageError
from adadagrad_kernels.training.models import MODELS
from adadagrad_kernels.training.options import OPTIONS
from adadagrad_kernels.training.readers import build_schedule, imported


def build_policy(
    config: RunConfig, training_samples: int, model: nn.Module, optimizer: Optimizer
) -> BatchSizeCriterion | BatchSizeSchedule | None:
    """Builds the test or the schedule of a run, or None for a fixed batch."""
    if config.schedule is not None:
        return build_schedule(config.schedule, config.batch_size, config.max_batch)
    return TESTS[config.test].build(
        Task(
            constants=config.test_constants(),
            model=model,
            optimizer=optimizer,
            lr=config.lr,
            training_samples=training_samples,
            metric=OPTIMIZERS[config.optimizer].metric,
        )
    )


def build_model(name: str, data: Data) -> nn.Module:
    """Builds a model by its name or the import path of a function.

    A function is called as ``function(shape, classes)``, with the shape of one input and the number
    of classes, and gives a module whose outputs are scores, ``[samples, classes]``.

    Raises:
        UsageError: where it cannot be imported, or gives something else.
    """
    shape, classes = data.train.inputs.shape[1:], data.classes
    if name in MODELS:
        if name == "cnn" and len(shape) != 3:
            raise UsageError(
                f"--model {name} is for images, [channels, height, width], and not for inputs of "
                f"{list(shape)}: give a function of yours, such as mypackage.nets:build"
            )
        return MODELS[name](shape, classes)
    model = imported("--model", name)(shape, classes)
    if not isinstance(model, nn.Module) or not any(p.requires_grad for p in model.parameters()):
        raise UsageError(
            f"--model {name} gave a {type(model).__name__}; accepted is a torch.nn.Module with "
            "parameters that require grad"
        )
    _require_scores(name, model, data)
    return model


def _require_scores(name: str, model: nn.Module, data: Data) -> None:
    """Run it once, as in evaluation."""
    inputs, was_training = data.test.first(2).inputs, model.training
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found = model.eval()(inputs)
    model.train(was_training)
    shape = list(found.shape) if isinstance(found, torch.Tensor) else None
    if shape is None or len(shape) != 2 or shape[0] != len(inputs) or shape[1] < data.classes:
        returned = f"a {type(found).__name__}" if shape is None else f"outputs of {shape}"
        raise UsageError(
            f"--model {name} gave {returned} for {len(inputs)} samples; accepted are scores "
            f"[{len(inputs)}, {data.classes}], one for each class"
        )


def knobs() -> dict[str, str]:
    """What findings call the knobs: the options that set them."""
    flags = {option.name: option.flag for option in OPTIONS}
    named = ("lr", "batch_size", "test_interval", "hysteresis", "cooldown", "growth_cap")
    return {
        **{name: flags[name] for name in (*CONSTANTS, *named)},
        "c": flags["scale"],
        "max_batch_size": flags["max_batch"],
    }
