"""layer_statistics on every kind of layer and setting, against one sample at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shares import Shares
from torch import Tensor, nn
from torch.nn.utils import prune

from adadagrad_kernels.statistics import layer_statistics

B = 5


def assert_measured(
    model: nn.Module,
    inputs: Any,
    call: Callable[[nn.Module, Any], Tensor] | None = None,
    rtol: float = 1e-9,
    **settings: Any,
) -> None:
    """All statistics of a loss that weighs every output element by itself, in float64."""
    run = call or (lambda module, x: module(x))
    generator = torch.Generator().manual_seed(3)
    shape = run(model, inputs).shape
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)

    def share(rows: slice) -> Tensor:
        output = run(model, inputs[rows])
        return (output.tanh() * weights[rows]).sum() / len(inputs)

    expected = Shares(model, lambda i: share(slice(i, i + 1)), len(inputs))
    model.zero_grad()
    with layer_statistics(model, inner_products=True, variance=True, **settings) as recorder:
        share(slice(0, len(inputs))).backward()
        record = recorder.statistics()
    expected.check(model, record, rtol)


def normal(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


LINEAR = [(7,), (6, 7), (2, 3, 7), (2, 1, 3, 7), (1, 7)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", LINEAR, ids=str)
def test_linear_with_any_leading_dimensions(shape: tuple[int, ...], bias: bool) -> None:
    assert_measured(nn.Linear(7, 3, bias=bias).double(), normal(*shape), on_other="raise")


CONVOLUTIONS: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (nn.Conv1d, {"kernel_size": 3}, (9,)),
    (nn.Conv1d, {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2}, (11,)),
    (nn.Conv1d, {"kernel_size": 4, "padding": "same"}, (9,)),
    (nn.Conv1d, {"kernel_size": 3, "groups": 2, "padding": 1, "padding_mode": "circular"}, (9,)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1}, (5, 6)),
    (nn.Conv2d, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2)}, (6, 5)),
    (nn.Conv2d, {"kernel_size": 3, "groups": 2, "dilation": (2, 1)}, (7, 6)),
    (nn.Conv2d, {"kernel_size": 3, "groups": 4, "bias": False}, (5, 5)),
    (nn.Conv2d, {"kernel_size": (3, 2), "padding": "same", "dilation": (1, 3)}, (5, 6)),
    (nn.Conv2d, {"kernel_size": 3, "padding": "valid", "bias": False}, (5, 6)),
    (nn.Conv2d, {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"}, (5, 6)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1, "padding_mode": "replicate"}, (5, 6)),
    (nn.Conv2d, {"kernel_size": 1}, (3, 4)),
    (nn.Conv3d, {"kernel_size": 2, "stride": (1, 2, 1), "padding": (0, 1, 1)}, (3, 4, 3)),
    (nn.Conv3d, {"kernel_size": (1, 3, 2), "groups": 2}, (2, 4, 3)),
]


@pytest.mark.parametrize(
    ("kind", "settings", "shape"),
    CONVOLUTIONS,
    ids=[f"{k.__name__} {s}" for k, s, _ in CONVOLUTIONS],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_convolutions(kind: Any, settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_measured(kind(4, 8, **settings).double(), normal(4, *shape), on_other="raise")


def test_convolution_in_channels_last() -> None:
    model = nn.Conv2d(4, 6, 3, padding=1).double().to(memory_format=torch.channels_last)
    inputs = normal(4, 5, 6).contiguous(memory_format=torch.channels_last)
    assert_measured(model, inputs, on_other="raise")


NORMS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.LayerNorm(6), (6,)),
    (nn.LayerNorm(6), (4, 6)),
    (nn.LayerNorm((4, 6)), (3, 4, 6)),
    (nn.LayerNorm(6, bias=False), (4, 6)),
    (nn.RMSNorm(6), (4, 6)),
    (nn.RMSNorm((4, 6), eps=1e-3), (2, 4, 6)),
    (nn.GroupNorm(3, 6), (6,)),
    (nn.GroupNorm(3, 6), (6, 4)),
    (nn.GroupNorm(2, 6), (6, 3, 4)),
    (nn.GroupNorm(6, 6), (6, 3, 2, 2)),
]


@pytest.mark.parametrize(("model", "shape"), NORMS, ids=[f"{m} {s}" for m, s in NORMS])
def test_normalisations(model: nn.Module, shape: tuple[int, ...]) -> None:
    model = model.double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert_measured(model, 3 + 2 * normal(*shape), on_other="raise")


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("padding_idx", [None, 0, -1])
@pytest.mark.parametrize("sparse", [False, True])
def test_embeddings(shape: tuple[int, ...], padding_idx: int | None, sparse: bool) -> None:
    model = nn.Embedding(6, 3, padding_idx=padding_idx, sparse=sparse).double()
    indices = torch.randint(6, (B, *shape))
    indices[0] = indices[-1]
    assert_measured(model, indices, on_other="raise")
    assert model.weight.grad.is_sparse == sparse


def test_indices_that_are_a_view() -> None:
    indices = torch.randint(6, (4, B)).t()
    assert_measured(nn.Embedding(6, 3).double(), indices, on_other="raise")


class Embeds(nn.Module):
    """Positions of shape [1, T] or [T], which all samples share."""

    def __init__(self, leading: bool) -> None:
        super().__init__()
        self.leading = leading
        self.tokens, self.positions = nn.Embedding(6, 3), nn.Embedding(B, 3)

    def forward(self, indices: Tensor) -> Tensor:
        positions = torch.arange(indices.shape[1])
        if self.leading:
            positions = positions.unsqueeze(0)
        return (self.positions(positions) + self.tokens(indices)) * 2


@pytest.mark.parametrize("length", [3, B], ids=["shorter", "as long as the batch"])
@pytest.mark.parametrize("leading", [True, False])
def test_positions_that_all_samples_share(leading: bool, length: int) -> None:
    """Their gradient is a sum over the batch before it reaches the embedding, but for us."""
    model = Embeds(leading).double()
    assert_measured(model, torch.randint(6, (B, length)), on_other="raise")


ATTENTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"batch_first": False},
    {"kdim": 5, "vdim": 7},
    {"add_zero_attn": True},
]


@pytest.mark.parametrize("settings", ATTENTIONS, ids=str)
@pytest.mark.parametrize("inputs", ["self", "same key and value", "all apart"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention(settings: dict[str, Any], inputs: str, need_weights: bool) -> None:
    if "kdim" in settings and inputs != "all apart":
        return
    settings = {"batch_first": True, **settings}
    model = nn.MultiheadAttention(4, 2, **settings).double()
    memory = normal(3, settings.get("kdim", 4)), normal(3, settings.get("vdim", 4))
    positions = normal(3, 4)
    padding = torch.tensor([[False, False, row % 2 == 1] for row in range(B)])
    first = (lambda t: t) if model.batch_first else (lambda t: t.transpose(0, 1))

    class Attends(nn.Module):
        """Takes the numbers of samples, which come first in whatever way the layer has it."""

        def __init__(self) -> None:
            super().__init__()
            self.attention = model

        def forward(self, rows: Tensor) -> Tensor:
            query = first(positions[rows])
            key, value = first(memory[0][rows]), first(memory[1][rows])
            if inputs == "self":
                key = value = query
            elif inputs == "same key and value":
                value = key
            output, _ = self.attention(
                query, key, value, key_padding_mask=padding[rows], need_weights=need_weights
            )
            return first(output)

    attends, rows = Attends(), torch.arange(B)
    native = attends(rows)
    with layer_statistics(attends):
        torch.testing.assert_close(attends(rows), native, rtol=1e-12, atol=1e-14)
    assert_measured(attends, rows, on_other="raise")


def test_attention_with_masks_and_weights_as_torch_has_it() -> None:
    model = nn.MultiheadAttention(4, 2, batch_first=True).double()
    x = normal(3, 4)
    causal = torch.ones(3, 3, dtype=torch.bool).triu(1)
    by_head = torch.randn(2 * B, 3, 3, dtype=torch.float64)
    for keywords in (
        {"attn_mask": causal, "is_causal": True, "need_weights": False},
        {"attn_mask": by_head, "average_attn_weights": False},
        {"attn_mask": by_head[0], "need_weights": True},
    ):
        native = model(x, x, x, **keywords)
        with layer_statistics(model):
            ours = model(x, x, x, **keywords)
        torch.testing.assert_close(ours, native, rtol=1e-12, atol=1e-14)


def test_a_transformer_layer() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).double()
    assert_measured(model, normal(3, 4), on_other="raise")


class Scaled(nn.Module):
    """Parameters outside of any layer: a table that is added, a scale, and one for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 3, 4))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.gain = nn.Parameter(torch.randn(4))
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.inner(x + self.table) * self.gain


OTHERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("bare parameters", Scaled, (3, 4)),
    ("inside", lambda: nn.Sequential(nn.Linear(4, 4), Scaled(), nn.Linear(4, 2)), (3, 4)),
    ("transposed convolution", lambda: nn.ConvTranspose2d(4, 3, 3, stride=2), (4, 4, 4)),
    ("PReLU", lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(4)), (4,)),
    ("InstanceNorm", lambda: nn.InstanceNorm1d(4, affine=True), (4, 5)),
    ("frozen BatchNorm", lambda: nn.BatchNorm1d(4).eval(), (4, 5)),
    ("weight norm", lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (3, 4)),
    ("added keys", lambda: _AddedKeys(), (3, 4)),
    ("cell", lambda: nn.GRUCell(4, 3), (4,)),
    ("older weight norm", lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3))), (3, 4)),
    ("pruned", lambda: _pruned(), (3, 4)),
]


def _pruned() -> nn.Module:
    layer = nn.Conv1d(3, 4, 2)
    prune.random_unstructured(layer, "weight", amount=0.5)
    return nn.Sequential(layer, nn.GroupNorm(1, 4))


class _AddedKeys(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return output


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("make", "shape"), [o[1:] for o in OTHERS], ids=[o[0] for o in OTHERS])
def test_other_modules(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    assert_measured(make().double(), normal(*shape))


def test_other_modules_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner products of several chunks take a second pass."""
    from adadagrad_kernels.statistics.measuring import pending

    monkeypatch.setattr(pending, "_CHUNK_BYTES", 300)
    assert_measured(Scaled().double(), normal(3, 4))


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (2, 4)),
        (nn.Conv1d(4, 3, 2), (4, 5)),
        (nn.LayerNorm(4), (3, 4)),
        (nn.GroupNorm(2, 4), (4, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weight_or_bias_frozen(layer: nn.Module, shape: tuple[int, ...], frozen: str) -> None:
    layer = layer.double().requires_grad_(True)
    getattr(layer, frozen).requires_grad_(False)
    before = getattr(layer, frozen).clone()
    assert_measured(layer, normal(*shape))
    assert getattr(layer, frozen).grad is None
    assert torch.equal(getattr(layer, frozen), before)
