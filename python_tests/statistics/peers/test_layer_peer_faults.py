"""Cases that other libraries refuse or count otherwise without a word, sample by sample.

Those of a single layer are in test_layer_kinds.py: convolutions in groups, whose squared norms
BackPACK 1.7.1 takes as if there were none; 'same' padding, which it does not know; the padding of
an embedding, whose row Opacus 1.6.0 and torch's expanded weights count in; attention with its
samples first, which Opacus's own layer puts together otherwise.
"""

from __future__ import annotations

from typing import Any

import peer_models
import pytest
import torch
import torch.nn.functional as F
from support.shares import Shares
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 5

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_exact(model: nn.Module, inputs: Tensor) -> None:
    """All statistics of a loss that weighs every output element by itself, in float64."""
    model = model.double()
    weights = torch.randn(model(inputs).shape, dtype=torch.float64)

    def share(rows: slice) -> Tensor:
        return (model(inputs[rows]).tanh() * weights[rows]).sum() / B

    expected = Shares(model, lambda i: share(slice(i, i + 1)), B)
    model.zero_grad()
    with layer_statistics(model, inner_products=True, variance=True) as recorder:
        share(slice(0, B)).backward()
        record = recorder.statistics()
    expected.check(model, record, 1e-9)


class TiedWithPadding(nn.Module):
    """An embedding whose padding has no gradient, but for what the head gives that row."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.tokens, self.head = nn.Embedding(6, 3, padding_idx=0), nn.Linear(3, 6)
        self.head.weight = self.tokens.weight

    def both(self, indices: Tensor) -> Tensor:
        output: Tensor = self.head(self.tokens(indices).tanh())
        return output

    def forward(self, indices: Tensor) -> Tensor:
        if not self.checkpointed:
            return self.both(indices)
        output: Tensor = checkpoint(self.both, indices, use_reentrant=False)
        return output


@pytest.mark.parametrize("checkpointed", [False, True])
def test_tied_weights_with_a_padding(checkpointed: bool) -> None:
    """BackPACK squares each use by itself; the rest take a checkpoint for another use, or fail."""
    indices = torch.randint(6, (B, 4))
    indices[1], indices[2, 1:] = 3, 0
    assert_exact(TiedWithPadding(checkpointed), indices)


class CheckpointedBlocks(peer_models.Tied):
    """A decoder with tied weights whose blocks run again in the backward pass."""

    def forward(self, indices: Tensor) -> Tensor:
        x = self.tokens(indices) + self.positions(torch.arange(indices.shape[1]))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        output: Tensor = self.head(self.norm(x))
        return output


def test_a_checkpointed_decoder_with_tied_weights() -> None:
    """And positions that are looked up once for all samples, as decoders are written."""
    assert_exact(CheckpointedBlocks(), torch.randint(19, (B, 7)))


class TwoResolutions(nn.Module):
    """Convolution in groups and normalisation, used on images of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding="same", groups=2)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        large, small = (self.norm(self.conv(image)) for image in (x, F.avg_pool2d(x, 2)))
        return torch.cat([large.flatten(1), small.flatten(1).square()], 1)


def test_layers_used_twice_on_other_shapes() -> None:
    assert_exact(TwoResolutions(), torch.randn(B, 4, 6, 4, dtype=torch.float64))


class TwoLengths(nn.Module):
    """An embedding of two sequences, the second of which is a view."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(6, 3)

    def forward(self, indices: Tensor) -> Tensor:
        return torch.cat([self.tokens(indices), self.tokens(indices[:, 1::2]).square()], 1)


def test_an_embedding_used_twice_on_other_lengths() -> None:
    assert_exact(TwoLengths(), torch.randint(6, (B, 5)))


class AutocastDecoder(peer_models.Tied):
    """With a bare parameter, which BackPACK leaves out, and a convolution in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 12))
        self.mix = nn.Conv1d(12, 12, 3, padding=1, groups=3)

    def forward(self, indices: Tensor) -> Tensor:
        x = self.tokens(indices) + self.positions(torch.arange(indices.shape[1]))
        x = self.scale * (x + self.mix(x.mT).mT)
        output: Tensor = self.head(self.norm(checkpoint(self.blocks, x, use_reentrant=False)))
        return output


# The module with the bare parameter, which is the whole model, runs again by vmap.
@pytest.mark.filterwarnings("ignore:There is a performance drop because:UserWarning")
def test_autocast_to_bfloat16_where_all_comes_together() -> None:
    """Tied weights, groups, a bare parameter and checkpoints; norms to bfloat16's precision."""
    model, indices = AutocastDecoder(), torch.randint(19, (B, 7))
    weights = torch.randn(B, 7, 19)

    def share(rows: slice) -> Tensor:
        return (model(indices[rows]).float().tanh() * weights[rows]).sum() / B

    exact = Shares(model, lambda i: share(slice(i, i + 1)), B).rows
    model.zero_grad()
    with layer_statistics(model, inner_products=True, variance=True) as recorder:
        with torch.autocast("cpu", torch.bfloat16):
            loss = share(slice(0, B))
        loss.backward()
        record = recorder.statistics()
    assert record is not None
    squares, mean = exact.square().sum(1), exact.mean(0)
    torch.testing.assert_close(record.sq_norms.double(), squares, rtol=0.05, atol=0)
    size = float(squares.mean())
    products = record.inner_products.double()
    torch.testing.assert_close(products, exact @ mean, rtol=0.05, atol=0.05 * size)
    total = sum(float(value.double().sum()) for value in record.variance.values())
    assert total == pytest.approx(float(exact.var(0).sum()), rel=0.05)


class CheckpointInside(nn.Module):
    """A bare parameter beside a checkpoint, as vision transformers have their positions."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.positions = nn.Parameter(torch.randn(3, 4))
        self.block = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions
        output: Tensor = checkpoint(self.block, x, use_reentrant=self.reentrant)
        return output + x


class Square(torch.autograd.Function):
    """Written in the older way, which torch.func does not take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class FunctionInside(nn.Linear):
    """A bare parameter in front of such a function."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = Square.apply(super().forward(x))
        return output


@pytest.mark.parametrize(
    "model", [CheckpointInside(False), FunctionInside(4, 2)], ids=["checkpoint", "function"]
)
def test_bare_parameters_where_vmap_fails(model: nn.Module) -> None:
    assert_exact(model, torch.randn(B, 3, 4, dtype=torch.float64))


def test_bare_parameters_beside_reentrant_checkpoints() -> None:
    model = CheckpointInside(True)
    with layer_statistics(model) as recorder:
        model(torch.randn(B, 3, 4)).square().sum().backward()
        with pytest.raises(UnsupportedModelError, match=r"\(positions\).*use_reentrant=False"):
            recorder.statistics()


class TiedToItsChild(nn.Module):
    """A slope of the model that a module inside has too; neither is of a kind with a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.PReLU()
        self.slope = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        return (self.slope * self.inner(x).exp()).sin()


def test_a_parameter_tied_to_that_of_a_module_inside() -> None:
    """Each of the two runs again with its own use of it alone."""
    assert_exact(TiedToItsChild(), torch.randn(B, 4, dtype=torch.float64))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
@pytest.mark.parametrize(
    "settings",
    [{}, {"affine": False}, {"track_running_stats": False}],
    ids=["plain", "no parameters", "no running statistics"],
)
def test_batch_norm_of_every_setting(norm: type[nn.Module], settings: dict[str, bool]) -> None:
    """Opacus refuses buffers, and so takes the last one; vmap normalises each sample alone."""
    model = nn.Sequential(nn.Linear(3, 4), norm(4, **settings))
    with (
        pytest.raises(UnsupportedModelError, match=r"layer '1' \(\w*BatchNorm\w*\) normalises"),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_batch_norm_by_function() -> None:
    """No module that a list of kinds could name."""

    class Normalises(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(super().forward(x), None, None, training=True)

    model = Normalises(3, 4)
    with pytest.raises(UnsupportedModelError, match="mixes"), layer_statistics(model):
        model(torch.randn(B, 3))


def test_rows_scaled_by_how_often_the_batch_has_them() -> None:
    """An embedding's gradient that depends on the other samples is none of a sample."""
    model = nn.Embedding(6, 3, scale_grad_by_freq=True)
    indices = torch.tensor([[0, 1], [0, 2], [3, 3]])
    refused = pytest.raises(UnsupportedModelError, match="scale_grad_by_freq=False")
    with refused, layer_statistics(model):
        model(indices)


def test_layers_frozen_and_released_between_steps() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(B, 4, dtype=torch.float64)
    expected = {}
    for trained in (False, True):
        model[0].requires_grad_(trained)
        expected[trained] = Shares(model, lambda i: model(x[i : i + 1]).pow(4).sum() / B, B)
    with layer_statistics(model, inner_products=True, variance=True) as recorder:
        for trained in (True, False, True):
            model[0].requires_grad_(trained)
            model.zero_grad()
            (model(x).pow(4).sum() / B).backward()
            expected[trained].check(model, recorder.statistics(), 1e-9)


def test_norms_of_a_large_layer_in_float32() -> None:
    """Millions of squares, which a norm summed in float32 has right to some 4e-5."""
    layer = nn.Linear(1500, 1200)
    x, weights = torch.randn(2, 3, 1500), torch.randn(2, 3, 1200)
    norms = {}
    for dtype in (torch.float32, torch.float64):
        layer, x, weights = layer.to(dtype), x.to(dtype), weights.to(dtype)
        layer.zero_grad()
        with layer_statistics(layer) as recorder:
            (layer(x) * weights).sum().backward()
            norms[dtype] = recorder.statistics().sq_norms
    torch.testing.assert_close(norms[torch.float32].double(), norms[torch.float64], rtol=2e-6,
                               atol=0)  # fmt: skip
