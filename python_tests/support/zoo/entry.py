"""An entry of the zoo, its inputs, and what its models are put together from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics import StatisticsCheck, check_statistics
from adadagrad_kernels.statistics.contents import Contents

#: Positions of a sequence; a batch may have as many samples.
T = 6


#: Features, words of a vocabulary.
D, V = 4, 11


class Model(nn.Module):
    """Parts, and a function of them and the inputs."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


@dataclass
class Batch:
    """An object of a user's own."""

    ids: Tensor
    mask: Tensor | None = None


class Slotted:
    """Another, without a dictionary."""

    __slots__ = ("ids",)

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        build: makes the model.
        inputs: makes those of so many samples.
        call: runs the model on them.
        sample: the inputs of one sample, where rows do not tell.
        autocast: whether it runs in bfloat16 too.
        samples: how many there are, where the first tensor's rows do not tell.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    call: Callable[[nn.Module, Any], Any] = lambda model, inputs: model(inputs)
    sample: Callable[[Any, int], Any] | None = None
    autocast: bool = True
    samples: Callable[[Any], int] | None = None

    def check(self, model: nn.Module, inputs: Any, **settings: Any) -> StatisticsCheck:
        """Compare a measured step with a plain one, and its record with samples alone."""
        samples = self.samples and self.samples(inputs)
        settings = {"loss": self.loss, "sample": self.sample, "samples": samples} | settings
        return check_statistics(model, inputs, show=False, **settings)

    def loss(self, model: nn.Module, inputs: Any) -> Tensor:
        """A mean over the samples of all that the model gives."""
        outputs = [t for t in Contents.of(self.call(model, inputs)).tensors if t.requires_grad]
        means = [(t.square() + 0.3 * t).flatten(1).mean(1) for t in map(_wide, outputs)]
        return torch.stack(means).sum(0).mean()


def _wide(tensor: Tensor) -> Tensor:
    tensor = tensor if tensor.dim() > 1 else tensor.unsqueeze(1)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def words(b: int) -> Tensor:
    return torch.randint(V, (b, T))


def rows(b: int) -> Tensor:
    return torch.randn(b, D)


def sequences(b: int) -> Tensor:
    return torch.randn(b, T, D)


def images(b: int) -> Tensor:
    return torch.randn(b, 2, 6, 6)


def text(run: Callable[..., Any], **parts: Any) -> Callable[[], nn.Module]:
    """Tokens, positions and a head, put together by ``run``."""

    def build() -> nn.Module:
        made = {name: part() if callable(part) else part for name, part in parts.items()}
        return Model(
            run, tok=nn.Embedding(V, D), pos=nn.Embedding(T, D), head=nn.Linear(D, V), **made
        )

    return build


def made(run: Callable[..., Any], **parts: Callable[[], Any]) -> Callable[[], nn.Module]:
    """Parts made anew for every model, and a function of them."""
    return lambda: Model(run, **{name: part() for name, part in parts.items()})


def positions(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1])


def causal() -> Tensor:
    return torch.full((T, T), -torch.inf).triu(1)


def attend(h: Tensor, mask: Tensor) -> Tensor:
    return (h @ h.mT + mask.to(h.dtype)).softmax(-1) @ h
