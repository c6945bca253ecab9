"""layer_statistics against other libraries, on models and in situations that they can do.

Where a peer is left out it refuses the model, or counts otherwise, as the comment says.
"""

from __future__ import annotations

from collections.abc import Callable

import peer_models
import pytest
import torch
from peer_comparison import TOLERANCE, Case, assert_agrees, compare, measured, pairs, require
from peer_sources import BACKPACK, OPACUS, PEERS
from torch import Tensor, nn

B = 4

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Opacus and BackPACK, whose hooks sit on the first layer too
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
    # BackPACK, on frozen parameters too
    pytest.mark.filterwarnings("ignore:Extension saving to .* does not have an ext:UserWarning"),
    # vmap's backward of scaled dot-product attention
    pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning"),
]


def normal(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


def without(*kinds: type[nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Freezes the layers of these kinds."""

    def freeze(model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, kinds):
                module.requires_grad_(False)
        return model

    return freeze


def only(*peers: str) -> tuple[str, ...]:
    return tuple(peer for peer in PEERS if peer not in peers)


SITUATIONS: list[Case] = [
    ("convolutions", peer_models.convolutions, (3, 9, 8), tuple(BACKPACK)),
    ("convolutions in groups", lambda: peer_models.convolutions(4), (3, 9, 8), tuple(BACKPACK)),
    (
        "convolutions, normalisation frozen",
        lambda: without(nn.GroupNorm)(peer_models.convolutions()),
        (3, 9, 8),
        (),
    ),
    # Ghost clipping refuses a layer that is used twice, and BackPACK has one input of it.
    ("used twice", peer_models.Twice, (6,), ("Opacus ghost", *BACKPACK)),
    ("used twice", peer_models.Twice, (3, 6), ("Opacus ghost", *BACKPACK)),
    # Expanded weights refuse it, BackPACK leaves it out.
    ("bare parameter", peer_models.Bare, (6,), ("ExpandedWeights", *BACKPACK)),
    ("bare parameter", peer_models.Bare, (3, 6), ("ExpandedWeights", *BACKPACK)),
    # The others' hooks on activations do not meet those of the recomputation.
    ("checkpointed", peer_models.Checkpointed, (6,), only(*BACKPACK)),
    ("checkpointed", peer_models.Checkpointed, (3, 6), only(*BACKPACK)),
    # Opacus has an attention of its own, below.
    (
        "attention",
        lambda: peer_models.Attention(nn.MultiheadAttention(6, 2)),
        (5, 6),
        only("vmap"),
    ),
]


@pairs(SITUATIONS)
def test_models(peer: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    compare(peer, make(), normal(*shape), on_other="vmap")


LANGUAGE: list[Case] = [
    ("gpt", peer_models.GPT, (7,), tuple(BACKPACK)),
    ("normalisation frozen", lambda: without(nn.LayerNorm)(peer_models.GPT()), (9,), ()),
    # Ghost clipping refuses tied weights; BackPACK adds the squares of the uses.
    ("tied", peer_models.Tied, (7,), ("Opacus ghost", *BACKPACK)),
]


def language(peer: str, model: nn.Module, indices: Tensor) -> None:
    # BackPACK's rows of ones and zeros are float32.
    dtype = torch.float32 if peer in BACKPACK else torch.float64
    compare(peer, model, indices, dtype)


@pairs(LANGUAGE)
def test_language_models(peer: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    language(peer, make(), torch.randint(19, (B, *shape)))


#: Ghost clipping takes no view as indices.
VIEWS: list[Case] = [(*case[:3], (*case[3], "Opacus ghost")) for case in LANGUAGE]


@pairs(VIEWS)
def test_language_models_on_indices_that_are_a_view(
    peer: str, make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    """As they are where the next token is to be told: all but the last of each row."""
    language(peer, make(), torch.randint(19, (B, shape[0] + 1))[:, :-1])


@pytest.mark.parametrize("peer", OPACUS)
@pytest.mark.parametrize("bias", [True, False])
def test_attention_of_opacus(peer: str, bias: bool) -> None:
    """Three layers with the weights of torch's one, whose gradients are parts of it.

    Samples come second: the other way its heads are not put together as torch has it.
    """
    require(peer)
    from opacus.layers import DPMultiheadAttention

    torch_layer = nn.MultiheadAttention(6, 2, bias=bias).double()
    their_layer = DPMultiheadAttention(6, 2, bias=bias).double()
    for parameter in torch_layer.parameters():
        nn.init.normal_(parameter)
    their_layer.load_state_dict(dict(torch_layer.state_dict()))
    ours, theirs = peer_models.Attention(torch_layer), peer_models.Attention(their_layer)
    inputs, weights = normal(5, 6), normal(5, 6)
    torch.testing.assert_close(theirs(inputs), ours(inputs))
    found = OPACUS[peer](theirs, inputs, weights, batch_first=False)
    for parts in (found.mean, found.variance, found.sum_of_squares):
        for kind in ("weight", "bias")[: 1 + bias] if parts is not None else ():
            split = [parts.pop(f"layer.{part}linear.{kind}") for part in "qkv"]
            parts[f"layer.in_proj_{kind}"] = torch.cat(split)
    assert_agrees(found, measured(ours, inputs, weights), TOLERANCE[torch.float64])
