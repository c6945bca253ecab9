"""layer_statistics against other libraries, on each layer that they can do, in float64.

The shapes are those of the layers' own tests in Opacus and BackPACK. What a peer leaves out, or
does in a way of its own, is in a comment where it is left out here.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peer_comparison import Case, compare, pairs
from peer_sources import BACKPACK, OPACUS, PEERS
from torch import Tensor, nn

B = 5

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Opacus and BackPACK, whose hooks sit on the first layer too
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]


def normal(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


LINEAR: list[Case] = [
    ("bias", lambda: nn.Linear(11, 13), (11,), ()),
    ("no bias", lambda: nn.Linear(11, 13, bias=False), (11,), ()),
    ("bias", lambda: nn.Linear(10, 12), (1, 10), ()),
    ("bias", lambda: nn.Linear(10, 12), (4, 10), ()),
    ("no bias", lambda: nn.Linear(17, 19, bias=False), (3, 17), ()),
    # Ghost clipping has a rule for two and three dimensions.
    ("bias", lambda: nn.Linear(13, 15), (4, 3, 13), ("Opacus ghost",)),
    ("no bias", lambda: nn.Linear(5, 3, bias=False), (2, 3, 4, 5), ("Opacus ghost",)),
    ("two", lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (6,), ()),
    ("two", lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (7, 6), ()),
]


@pairs(LINEAR)
def test_linear(peer: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    compare(peer, make(), normal(*shape))


#: BackPACK pads by numbers alone; its squared norms do not see groups.
NUMBERS, GROUPS = ("BackPACK norms", "BackPACK squares"), ("BackPACK norms",)

CONVOLUTIONS: list[Case] = [
    ("1d", lambda: nn.Conv1d(3, 5, 3), (3, 11), ()),
    ("1d stride", lambda: nn.Conv1d(4, 6, 4, stride=2, padding=2), (4, 12), ()),
    ("1d dilation", lambda: nn.Conv1d(4, 6, 3, dilation=3, padding=1, bias=False), (4, 13), ()),
    ("1d groups", lambda: nn.Conv1d(6, 9, 2, groups=3, stride=2), (6, 10), GROUPS),
    ("1d same", lambda: nn.Conv1d(4, 6, 3, padding="same", dilation=2), (4, 10), NUMBERS),
    ("2d", lambda: nn.Conv2d(3, 4, 2), (3, 7, 9), ()),
    ("2d stride", lambda: nn.Conv2d(3, 4, 3, stride=2, padding=2), (3, 11, 8), ()),
    ("2d dilation", lambda: nn.Conv2d(2, 3, 3, dilation=(3, 1), padding=2), (2, 8, 7), ()),
    ("2d oblong", lambda: nn.Conv2d(2, 3, (3, 1), stride=(1, 3), bias=False), (2, 6, 9), ()),
    ("2d pointwise", lambda: nn.Conv2d(6, 4, 1), (6, 5, 5), ()),
    ("2d groups", lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), (4, 8, 7), GROUPS),
    ("2d depthwise", lambda: nn.Conv2d(4, 8, 3, groups=4, dilation=2), (4, 7, 8), GROUPS),
    ("2d same", lambda: nn.Conv2d(3, 4, 3, padding="same"), (3, 6, 7), NUMBERS),
    ("2d valid", lambda: nn.Conv2d(3, 4, 3, padding="valid"), (3, 6, 7), NUMBERS),
    ("2d on one row", lambda: nn.Conv2d(1, 1, (3, 1), dilation=(3, 1), bias=False), (1, 8, 1), ()),
    ("3d", lambda: nn.Conv3d(2, 3, 2), (2, 4, 3, 5), ()),
    ("3d all", lambda: nn.Conv3d(2, 3, (1, 2, 3), (2, 1, 2), (0, 1, 2)), (2, 4, 3, 5), ()),
    ("3d dilation", lambda: nn.Conv3d(2, 2, 2, dilation=(1, 2, 1)), (2, 3, 4, 3), ()),
    ("3d groups", lambda: nn.Conv3d(4, 6, 2, groups=2, bias=False), (4, 3, 4, 3), GROUPS),
]


@pairs(CONVOLUTIONS)
def test_convolutions(peer: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    compare(peer, make(), normal(*shape))


NORMS: list[Case] = [
    ("layer", lambda: nn.LayerNorm(6), (6,), tuple(BACKPACK)),
    ("layer", lambda: nn.LayerNorm(6), (3, 6), tuple(BACKPACK)),
    ("layer", lambda: nn.LayerNorm((4, 6)), (3, 4, 6), tuple(BACKPACK)),
    ("layer", lambda: nn.LayerNorm((2, 4, 6)), (2, 4, 6), tuple(BACKPACK)),
    # Opacus asks the bias that is not there.
    ("layer, no bias", lambda: nn.LayerNorm(6, bias=False), (3, 6), (*BACKPACK, *OPACUS)),
    ("rms", lambda: nn.RMSNorm(6), (6,), (*BACKPACK, "ExpandedWeights")),
    ("rms", lambda: nn.RMSNorm(6, eps=1e-4), (3, 6), (*BACKPACK, "ExpandedWeights")),
    ("rms", lambda: nn.RMSNorm((4, 6)), (3, 4, 6), (*BACKPACK, "ExpandedWeights")),
    ("group", lambda: nn.GroupNorm(2, 4), (4, 5), tuple(BACKPACK)),
    ("group", lambda: nn.GroupNorm(4, 4), (4, 5, 3), tuple(BACKPACK)),
    ("group", lambda: nn.GroupNorm(1, 6), (6, 3, 2, 2), tuple(BACKPACK)),
]


@pairs(NORMS)
def test_normalisations(peer: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = make()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    compare(peer, model, 3 + 2 * normal(*shape))


#: Other peers than vmap give the padding's row a gradient, which training does not, or refuse it.
TRAINED = tuple(peer for peer in PEERS if peer != "vmap")

EMBEDDINGS: list[Case] = [
    ("plain", lambda: nn.Embedding(7, 6), (1,), ()),
    ("plain", lambda: nn.Embedding(7, 6), (4,), ()),
    ("plain", lambda: nn.Embedding(2, 5), (5, 3), ()),
    ("plain", lambda: nn.Embedding(32, 4), (3, 2, 2), ()),
    ("padding", lambda: nn.Embedding(7, 6, padding_idx=2), (6,), TRAINED),
    ("padding", lambda: nn.Embedding(7, 6, padding_idx=-1), (3, 4), TRAINED),
]


@pairs(EMBEDDINGS)
def test_embeddings(peer: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    model = make()
    assert isinstance(model, nn.Embedding)
    # BackPACK's rows of ones and zeros are float32.
    dtype = torch.float32 if peer in BACKPACK else torch.float64
    compare(peer, model, torch.randint(model.num_embeddings, (B, *shape)), dtype)
