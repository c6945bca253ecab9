"""Parameters outside of layers, tied ones, changed and frozen ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from support.zoo.entry import D, Entry, Model, V, causal, images, made, rows, sequences, words


class Block(nn.Module):
    """A parameter of its own beside a layer, and a mask that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.f = nn.Parameter(torch.ones(D)), nn.Linear(D, D)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return h + self.gamma * ((h @ h.mT + mask.to(h.dtype)).softmax(-1) @ self.f(h))


class Scaled(nn.Embedding):
    """An embedding with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 4.0


class Holder(nn.Module):
    """Holds the bias of its layer too, as heads of Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, 3)
        self.bias = self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh()


class Twice(nn.Module):
    """The same, and uses it once more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, 3)
        self.bias = self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() * self.bias


def tied(one: nn.Module, other: nn.Module) -> nn.Module:
    other.weight = one.weight
    return other


def tied_text(table: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        tok = table()
        return Model(
            lambda m, x: m.head(m.tok(x).tanh()),
            tok=tok, head=tied(tok, nn.Linear(D, V, bias=False)),
        )  # fmt: skip

    return build


def tied_layers() -> nn.Module:
    one = nn.Linear(D, D)
    return nn.Sequential(one, nn.Tanh(), tied(one, nn.Linear(D, D)), nn.Tanh(), one)


PARAMETERS = {
    "tied embedding and head": Entry(tied_text(lambda: nn.Embedding(V, D)), words),
    "tied, of another class": Entry(tied_text(lambda: Scaled(V, D)), words),
    "tied layers": Entry(tied_layers, rows),
    "a holder": Entry(lambda: nn.Sequential(Holder(), nn.Linear(3, 2)), rows),
    "a holder that uses": Entry(lambda: nn.Sequential(Twice(), nn.Linear(3, 2)), rows),
    "a list of parameters": Entry(
        made(
            lambda m, x: m.o((x @ m.w[0]).tanh() * m.w[1]),
            w=lambda: nn.ParameterList([torch.randn(D, D), torch.randn(D)]),
            o=lambda: nn.Linear(D, 2),
        ),
        rows,
    ),
    "a dictionary of parameters in a list": Entry(
        made(
            lambda m, x: m.o(x * m.w[0]["a"]),
            w=lambda: nn.ModuleList([nn.ParameterDict({"a": torch.randn(D)})]),
            o=lambda: nn.Linear(D, 2),
        ),
        rows,
    ),
    "a block with a mask": Entry(
        made(lambda m, x: m.b(m.e(x), causal()).mean(1), e=lambda: nn.Linear(D, D), b=Block),
        sequences,
    ),
    "spectral norm": Entry(
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(D, 7)), nn.ReLU(), nn.Linear(7, 2)
        ),
        rows, autocast=False,
    ),
    "spectral norm by a hook": Entry(
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(D, 7)), nn.Tanh(), nn.Linear(7, 2)),
        rows, autocast=False,
    ),
    "weight norm": Entry(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(D, 7)), nn.Linear(7, 2)), rows,
        autocast=False,
    ),
    "orthogonal": Entry(
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(D, D)), nn.Linear(D, 2)),
        rows, autocast=False,
    ),
    "a parametrization of its own": Entry(
        lambda: _parametrized(nn.Conv2d(2, 3, 3)), images
    ),
    "frozen parts": Entry(
        lambda: nn.Sequential(
            nn.Linear(D, 5).requires_grad_(False), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(),
            _frozen(nn.Linear(5, 3), "bias"), _frozen(nn.LayerNorm(3), "weight"), nn.Linear(3, 2),
        ),
        rows,
    ),
    "unused parts": Entry(
        made(lambda m, x: m.a(x), a=lambda: nn.Linear(D, 2), b=lambda: nn.Linear(D, 2)), rows
    ),
    "parts without an influence": Entry(
        made(lambda m, x: m.a(x) + 0 * m.b(x), a=lambda: nn.Linear(D, 2),
             b=lambda: nn.Linear(D, 2)),
        rows,
    ),
    "real and imaginary parts": Entry(
        made(
            lambda m, x: torch.fft.irfft(
                torch.fft.rfft(m.e(x)) * torch.view_as_complex(m.w), n=D
            ),
            e=lambda: nn.Linear(D, D), w=lambda: nn.Parameter(torch.randn(3, 2)),
        ),
        rows, autocast=False,
    ),
    "a bias before a normalisation": Entry(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 3, 4, 2, 1), nn.InstanceNorm2d(3), nn.Tanh(), nn.Conv2d(3, 1, 1)
        ),
        images,
    ),
}  # fmt: skip


class Half(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight


def _parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Half())
    return layer


def _frozen(layer: nn.Module, name: str) -> nn.Module:
    getattr(layer, name).requires_grad_(False)
    return layer
