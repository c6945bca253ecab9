"""layer_statistics against Opacus and vmap on shapes that Hypothesis draws.

The strategies are those of Opacus's own tests of these layers, in fewer channels.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peer_comparison import compare
from torch import nn

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Opacus, whose hooks sit on the first layer too
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]

PEERS = pytest.mark.parametrize("peer", ["Opacus", "vmap"])
FEW = settings(max_examples=25, deadline=None)
KINDS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@PEERS
@FEW
@given(data=st.data())
def test_convolutions(peer: str, data: st.DataObject) -> None:
    spatial = data.draw(st.integers(1, 3), "dimensions")
    groups = data.draw(st.integers(1, 3), "groups")
    channels, outputs = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    kernel = tuple(data.draw(st.integers(1, 3), "kernel") for _ in range(spatial))
    stride = data.draw(st.integers(1, 2), "stride")
    dilation = data.draw(st.integers(1, 2), "dilation")
    padding = data.draw(st.sampled_from([0, 1, 2, "same", "valid"]), "padding")
    assume(padding != "same" or stride == 1)
    size = [data.draw(st.integers(5, 8), "size") for _ in range(spatial)]
    bias = data.draw(st.booleans(), "bias")
    layer = KINDS[spatial](
        channels, outputs, kernel, stride, padding, dilation, groups=groups, bias=bias
    )
    samples = data.draw(st.integers(2, 4), "samples")
    compare(peer, layer, torch.randn(samples, channels, *size, dtype=torch.float64))


@PEERS
@FEW
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    inputs=st.integers(1, 17),
    outputs=st.integers(1, 19),
    bias=st.booleans(),
    samples=st.integers(2, 5),
)
def test_linear(
    peer: str, shape: list[int], inputs: int, outputs: int, bias: bool, samples: int
) -> None:
    rows = torch.randn(samples, *shape[1:], inputs, dtype=torch.float64)
    compare(peer, nn.Linear(inputs, outputs, bias=bias), rows)


@PEERS
@FEW
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    count=st.integers(2, 32),
    width=st.integers(1, 17),
    samples=st.integers(2, 5),
)
def test_embeddings(peer: str, shape: list[int], count: int, width: int, samples: int) -> None:
    compare(peer, nn.Embedding(count, width), torch.randint(count, (samples, *shape)))


@PEERS
@FEW
@given(
    groups=st.integers(1, 4),
    each=st.integers(1, 3),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    samples=st.integers(2, 5),
)
def test_normalisations(peer: str, groups: int, each: int, shape: list[int], samples: int) -> None:
    channels = groups * each
    rows = torch.randn(samples, channels, *shape, dtype=torch.float64)
    # A group of one or two values is normalised to signs, whose gradients are rounding alone.
    assume(each * rows[0, 0].numel() > 2)
    compare(peer, nn.GroupNorm(groups, channels), rows)
    for layer in (nn.LayerNorm(shape), nn.LayerNorm((channels, *shape)), nn.RMSNorm(shape)):
        assume(torch.Size(layer.normalized_shape).numel() > 2)
        compare(peer, layer, rows)
