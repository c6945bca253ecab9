"""AdAdaGrad on a part of CIFAR-10: the 3-layer CNN, and ResNet-18 with GroupNorm.

Lau, Liu, Kolar, arXiv 2402.11215: AdaGrad and Adam against AdAdaGrad and AdAdam. Their ResNet has
BatchNorm, with which no sample has a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.training.data import CLASSES
from benchmarks.reproduce.harness import training_run
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import Experiment, Options, Run, Stored
from benchmarks.reproduce.tables import LOSS_AND_ACCURACY, paragraph, tasks, training_table
from benchmarks.reproduce.tasks import cifar

NAME = "cifar_adadagrad"


def cnn() -> nn.Module:
    """The paper's "3-layer CNN": three convolutions and two linear layers, 541,094 parameters."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(1024, 500), nn.ReLU(), nn.Linear(500, CLASSES)
    )


class Block(nn.Module):
    """Two convolutions beside the identity, or beside a 1 x 1 convolution where shapes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.first_norm = _norm(after)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.second_norm = _norm(after)
        self.beside: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.beside = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), _norm(after)
            )

    def forward(self, images: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(images)))
        return F.relu(self.second_norm(self.second(inner)) + self.beside(images))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(min(32, channels // 4), channels)


def resnet18(width: int) -> nn.Module:
    """ResNet-18 for images of 32 x 32: no pooling before the blocks; ``width`` is 64 in full."""
    blocks: list[nn.Module] = []
    before = width
    for stage in range(4):
        after = width * 2**stage
        blocks += [Block(before, after, 1 if stage == 0 else 2), Block(after, after, 1)]
        before = after
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), _norm(width), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES),
    )  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model, its budget, and the constants of its rows."""

    name: str
    build: Callable[[], nn.Module]
    samples: int
    optimizers: dict[str, dict[str, Any]]
    etas: tuple[float, ...]
    fixed: tuple[int, ...]
    batch_size: int
    max_batch: int
    target: float
    seeds: int
    schedule: dict[str, Any]
    threads: int = 2
    evaluations: int = 20


ADAGRAD = {"kind": "adagrad", "lr": 0.01}
ADAM = {"kind": "adam", "lr": 0.001, "betas": [0.9, 0.95]}
BOTH = {"Grad": ADAGRAD, "m": ADAM}
#: The paper's: 10 % of warm-up, then a cosine to a tenth of the height.
COSINE = {"shape": "cosine", "warmup": 0.1, "floor": 0.1}
PUBLISHED_ADAGRAD = {"Grad": {"kind": "adagrad", "lr": 0.05}, "m": ADAM}
SIZES = {
    "smoke": [
        Model("3-layer CNN", cnn, 100, {"Grad": ADAGRAD}, (0.5,), (32,), 8, 64, 0.5, 1, {}, 1, 2),
        Model("ResNet-18, width 8", partial(resnet18, 8), 32, {"Grad": ADAGRAD}, (0.5,), (), 8,
              32, 0.5, 1, COSINE, 1, 2),
    ],
    "machine": [
        Model("3-layer CNN", cnn, 50_000, BOTH, (0.5, 1.0), (32, 512), 8, 5000, 0.45, 2, {}),
        Model("ResNet-18, width 16", partial(resnet18, 16), 15_000, BOTH, (0.5, 0.9), (32,), 8,
              5000, 0.4, 1, COSINE, evaluations=10),
    ],
    "paper": [
        Model("3-layer CNN", cnn, 1_000_000, BOTH, (0.1, 0.25, 0.5), (32, 512), 8, 5000, 0.55, 3,
              {}),
        Model("ResNet-18, width 64", partial(resnet18, 64), 1_000_000, PUBLISHED_ADAGRAD, (0.5,),
              (128,), 8, 5000, 0.6, 3, COSINE),
    ],
}  # fmt: skip


def runs(options: Options) -> list[Run]:
    """Every model, method and seed."""
    return [
        training_run(
            model.name, cifar(options, model.build), plan, seed, options, threads=model.threads,
            data="5,000 images",
        )
        for model in SIZES[options.size]
        for plan in plans(model)
        for seed in range(options.seeds or model.seeds)
    ]  # fmt: skip


def plans(model: Model) -> list[Plan]:
    """Each optimizer with every constant and every fixed batch."""
    common: dict[str, Any] = {
        "samples": model.samples,
        "evaluate_every": max(1, model.samples // model.evaluations),
        "targets": {"test_accuracy": [model.target]},
        "micro_batch": 128,
        **model.schedule,
    }
    found = []
    for name, optimizer in model.optimizers.items():
        found += [
            Plan(f"AdAda{name}, η = {eta:g}", optimizer, model.batch_size,
                 max_batch=model.max_batch, growth={"rule": "norm", "eta": eta}, **common)
            for eta in model.etas
        ]  # fmt: skip
        found += [Plan(f"Ada{name}, batch {n}", optimizer, n, **common) for n in model.fixed]
    return found


TEXT = """\
Lau, Liu, Kolar, arXiv 2402.11215: ResNet-18 with the norm test at η = 0.5, 10,000,000 samples of
the whole of CIFAR-10, augmented, AdaGrad with lr 0.05 and AdAdam; their tables were not available
to compare with, only the settings. Here: the first 5,000 training and 1,000 test images without
augmentation, a budget that is short, and GroupNorm in place of BatchNorm, whose samples have no
gradients of their own. So the accuracies are far below the paper's, and what can be compared is
methods with each other.
"""


def section(figures: Stored) -> list[str]:
    """A table for each model."""
    lines = paragraph(TEXT)
    for task, members in tasks(figures.runs).items():
        plan = members[0]["settings"]["plan"]
        (target,) = plan["targets"]["test_accuracy"]
        shape = "a cosine after a warm-up" if plan["shape"] == "cosine" else "constant"
        lines += [f"### {task}", "", f"{plan['samples']:,} samples; learning rate: {shape}.", ""]
        lines += training_table(members, "test_accuracy", target, LOSS_AND_ACCURACY)
    return lines


FINDINGS = """\
There is no published figure to compare with. In a budget this short, an η like the published ones
asks for thousands of samples within a few steps: 17 to 36 steps remain for the whole budget, and
the model learns little. At η = 1 the CNN ends above a fixed batch of 512 and below one of 32. The
constant belongs to the length of the training: what suits ten million samples does not suit fifty
thousand. The ResNet shows the same with fewer steps still.
"""

EXPERIMENT = Experiment(
    NAME, "AdAdaGrad on a part of CIFAR-10", 13, runs, section, {"machine": FINDINGS}
)
