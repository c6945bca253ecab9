"""layer_statistics of every kind of layer where the tensors are: on a GPU, and here on the CPU.

What one sample at a time gives through plain autograd, in float64 on the CPU, is what a step on the
device must give, for each of the ways in which a layer is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adadagrad_kernels.criteria import NormTest
from adadagrad_kernels.statistics import PerSampleGradients, layer_statistics

B = 4

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]


class TiedModules(nn.Module):
    """An embedding whose weight is the head's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.mix, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7)
        self.head.weight = self.tokens.weight

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.mix(self.tokens(text)))


class Positions(nn.Module):
    """Rows that all samples share, and a bare parameter of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, 6), nn.Embedding(5, 6)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, text: Tensor) -> Tensor:
        places = torch.arange(text.shape[1], device=text.device)
        return (self.tokens(text) + self.places(places)) * self.scale


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x, x, x)[0]
        return found


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.cells(x)[0]
        return found


class Own(nn.Module):
    """A module without a kernel: measured by vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.power = nn.Parameter(torch.randn(6, 6) / 2), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i,ij->...j", x, self.weight).tanh() * self.power


class UnequalBags(nn.Module):
    """Bags of different lengths, by their offsets; a text's first word says how long its bag is.

    What is cut off lies behind the bags, and counts for nothing in the last one.
    """

    def __init__(self, mode: str, **settings: Any) -> None:
        super().__init__()
        self.bags = nn.EmbeddingBag(7, 6, mode=mode, padding_idx=2, **settings)

    def forward(self, text: Tensor) -> Tensor:
        samples, width = text.shape
        lengths, places = text[:, 0] % width, torch.arange(width, device=text.device)
        cut_off = (places >= lengths.unsqueeze(1)).flatten()
        order = cut_off.int().argsort(stable=True)
        words = torch.where(cut_off[order], 2, text.flatten()[order])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])[:samples]
        weights = None
        if self.bags.mode == "sum":
            own = torch.linspace(-1, 2, width).to(self.bags.weight)
            weights = own.repeat(samples)[order]
        if self.bags.include_last_offset:
            offsets = torch.cat([offsets, offsets.new_full((1,), len(words))])
        bags: Tensor = self.bags(words, offsets, weights)
        return bags


def _conv1d() -> nn.Module:
    """GPT-2's linear layer, whose weight is transposed."""
    reason = "Transformers is not installed"
    utils = pytest.importorskip("transformers.pytorch_utils", reason=reason)
    return utils.Conv1D(3, 6)


def _numbers(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(B, *shape)


def _text() -> Tensor:
    return torch.randint(7, (B, 5))


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(6, 3), _numbers(6)),
    "linear of sequences": (lambda: nn.Linear(6, 3), _numbers(5, 6)),
    "linear of long sequences": (lambda: nn.Linear(6, 3), _numbers(70, 6)),
    "linear without bias": (lambda: nn.Linear(6, 3, bias=False), _numbers(2, 3, 6)),
    "transposed linear": (_conv1d, _numbers(5, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2), _numbers(4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), _numbers(4, 6, 6)),
    "conv2d in groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), _numbers(4, 8, 8)),
    "conv2d, reflected": (
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), _numbers(4, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), _numbers(2, 4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3), _numbers(4, 5, 5)),
    "layer norm": (lambda: nn.LayerNorm(6), _numbers(5, 6)),
    "layer norm of planes": (lambda: nn.LayerNorm((3, 4)), _numbers(3, 4)),
    "rms norm": (lambda: nn.RMSNorm(6), _numbers(5, 6)),
    "group norm": (lambda: nn.GroupNorm(2, 6), _numbers(6, 5, 5)),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), _numbers(4, 5, 5)),
    "embedding": (lambda: nn.Embedding(7, 6), _text),
    "embedding with padding": (lambda: nn.Embedding(7, 6, padding_idx=2), _text),
    "sparse embedding": (lambda: nn.Embedding(7, 6, padding_idx=2, sparse=True), _text),
    "embedding bag": (lambda: nn.EmbeddingBag(7, 6, mode="mean"), _text),
    "bags with offsets": (lambda: UnequalBags("mean"), _text),
    "weighted bags with offsets": (lambda: UnequalBags("sum", include_last_offset=True), _text),
    "sparse bags with offsets": (lambda: UnequalBags("mean", sparse=True), _text),
    "attention": (Attention, _numbers(5, 6)),
    "lstm": (lambda: Recurrent(nn.LSTM), _numbers(5, 6)),
    "gru": (lambda: Recurrent(nn.GRU), _numbers(5, 6)),
    "rnn": (lambda: Recurrent(nn.RNN), _numbers(5, 6)),
    "tied modules": (TiedModules, _text),
    "shared rows, bare parameter": (Positions, _text),
    "without a kernel": (Own, _numbers(5, 6)),
    "activation": (lambda: nn.PReLU(4), _numbers(4, 5)),
}  # fmt: skip


class Record:
    """What the samples of a model contribute, one at a time in float64 on the CPU."""

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        model = copy.deepcopy(model).double()
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        names, params = zip(*model.named_parameters(), strict=True)
        rows = []
        for i in range(B):
            model.zero_grad()
            _loss(model(inputs[i : i + 1]), range(i, i + 1)).backward()
            rows.append([p.grad.to_dense() if p.grad is not None else torch.zeros_like(p)
                         for p in params])  # fmt: skip
        flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        mean = flat.mean(0)
        self.sq_norms = flat.square().sum(1)
        self.inner_products = flat @ mean
        sizes = [p.numel() for p in params]
        self.mean = dict(zip(names, mean.split(sizes), strict=True))
        self.variance = dict(zip(names, flat.var(0).split(sizes), strict=True))


def _loss(outputs: Tensor, samples: range) -> Tensor:
    """The mean over samples of a loss that weighs every output by itself."""
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(B, *outputs.shape[1:], generator=generator, dtype=torch.float64)
    weights = whole[samples.start : samples.stop].to(outputs)
    return (outputs.tanh() * weights).flatten(1).sum(1).mean()


def _assert_close(found: Tensor, expected: Tensor, rtol: float) -> None:
    found, expected = found.detach().to_dense().cpu().double().flatten(), expected.flatten()
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * scale + 1e-12)


@pytest.mark.parametrize("shadow", [False, True], ids=["measured", "shadow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_every_kind_of_layer(device: str, kind: str, dtype: torch.dtype, shadow: bool) -> None:
    build, make = KINDS[kind]
    model, inputs = build(), make()
    expected = Record(model, inputs)
    model.to(device, dtype)
    given = inputs.to(device, dtype) if inputs.is_floating_point() else inputs.to(device)
    # Products in TF32 would be off by more than a wrong kernel.
    rtol = 1e-4 if dtype == torch.float32 else 1e-9
    with (
        torch.backends.cudnn.flags(allow_tf32=False),
        layer_statistics(model, variance=True, inner_products=True, shadow=shadow) as recorder,
    ):
        for _ in range(2):  # the first step asks more of the model
            model.zero_grad()
            _loss(model(given), range(B)).backward()
            record = recorder.statistics()
    assert record is not None
    assert record.batch_size == B
    assert record.sq_norms is not None
    assert record.inner_products is not None
    assert record.variance is not None
    _assert_close(record.sq_norms, expected.sq_norms, rtol)
    _assert_close(record.inner_products, expected.inner_products, rtol)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.device.type == device
        _assert_close(parameter.grad, expected.mean[name], rtol)
        _assert_close(record.variance[name], expected.variance[name], rtol)


AUTOCAST = ["linear of sequences", "transposed linear", "conv2d", "group norm", "tied modules"]


@pytest.mark.parametrize("kind", AUTOCAST)
@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast(device: str, kind: str) -> None:
    build, make = KINDS[kind]
    model, inputs = build(), make()
    expected = Record(model, inputs)
    model.to(device)
    with layer_statistics(model, variance=True, inner_products=True) as recorder:
        with torch.autocast(device, torch.bfloat16):
            outputs = model(inputs.to(device))
        _loss(outputs.float(), range(B)).backward()
        record = recorder.statistics()
    assert record is not None
    assert record.sq_norms is not None
    _assert_close(record.sq_norms, expected.sq_norms, 0.05)
    assert record.inner_products is not None
    _assert_close(record.inner_products, expected.inner_products, 0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_micro_batches_and_a_decision(device: str) -> None:
    """Two micro-batches are one record of all samples, and a criterion reads it."""
    model, inputs = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.LayerNorm(5)), torch.randn(B, 6)
    expected = Record(model, inputs)
    model.to(device)
    with layer_statistics(model) as recorder:
        for start in (0, 2):
            part = model(inputs[start : start + 2].to(device))
            (_loss(part, range(start, start + 2)) / 2).backward()
        record = recorder.statistics()
    assert record is not None
    assert record.sq_norms is not None
    _assert_close(record.sq_norms, expected.sq_norms, 1e-4)
    whole = sum(float(mean.square().sum()) for mean in expected.mean.values())
    noise = (float(expected.sq_norms.sum()) - B * whole) / (B - 1)
    decision = NormTest(eta=0.5)(record)
    assert decision.batch_size == pytest.approx(noise / (0.25 * whole), rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_per_sample_gradients(device: str) -> None:
    model, inputs = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(B, 6)
    expected = Record(model, inputs)
    model.to(device)
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(B, 3, generator=generator, dtype=torch.float64).float().to(device)

    def loss(outputs: Tensor, own: Tensor) -> Tensor:
        return (outputs.tanh() * own).sum(1).mean()

    record = PerSampleGradients(model, loss).backward(inputs.to(device), weights)
    assert record.sq_norms is not None
    _assert_close(record.sq_norms, expected.sq_norms, 1e-4)
