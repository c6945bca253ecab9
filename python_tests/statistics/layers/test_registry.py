"""Layers that a user has registered, and norms of other libraries, known by their structure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.refusals import refused
from support.shares import Shares
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels import register_layer
from adadagrad_kernels.statistics import layer_statistics
from adadagrad_kernels.statistics.layers import by_vmap, registry
from adadagrad_kernels.statistics.layers.registry import find_runner

B = 6


class Scale(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(size))

    def forward(self, inputs: Tensor, power: int = 1) -> Tensor:
        return inputs**power * self.factor + self.shift


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


def scale(module: Scale, inputs: Tensor, power: int = 1, *, grad_output: Tensor) -> dict:
    return {"factor": inputs**power * grad_output, "shift": grad_output}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale, self.last = nn.Linear(3, 4), Scale(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale(self.first(x), 2)).square()


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("on_other", ["vmap", "raise"])
def test_a_layer_of_ones_own(monkeypatch: pytest.MonkeyPatch, on_other: str, shadow: bool) -> None:
    register_layer(Scale)(scale)
    monkeypatch.setattr(by_vmap, "vmap", None)
    model, x = Model().double(), torch.randn(B, 3, dtype=torch.float64)
    expected = Shares(model, lambda i: model(x[i : i + 1]).sum(), B)
    asked = {"variance": True, "inner_products": True}
    with layer_statistics(model, on_other=on_other, shadow=shadow, **asked) as recorder:
        model(x).sum().backward()
        expected.check(model, recorder.statistics(), 1e-9)


def test_a_formula_that_is_wrong_is_noticed() -> None:
    register_layer(Scale)(lambda module, inputs, power, grad_output: {
        "factor": inputs * grad_output, "shift": grad_output})  # fmt: skip
    model = Model()
    with refused(model, "scale.factor"), layer_statistics(model) as recorder:
        model(torch.randn(B, 3)).sum().backward()
        recorder.statistics()


def test_shapes_that_are_no_contributions() -> None:
    register_layer(Scale)(lambda module, inputs, power, grad_output: {"factor": grad_output})
    model = Model()
    with layer_statistics(model) as recorder:
        model(torch.randn(B, 3)).sum().backward()
        with pytest.raises(ValueError, match=r"layer 'scale' \(Scale\) gave.*accepted"):
            recorder.statistics()


def test_what_is_no_class_of_modules() -> None:
    with pytest.raises(TypeError, match=r"classes of torch\.nn\.Module"):
        register_layer(nn.Linear(2, 2))  # type: ignore[arg-type]


class Root(nn.Module):
    """As Llama's, Mistral's and Qwen's."""

    def __init__(self, size: int, unit: bool = False) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.unit = nn.Parameter(torch.randn(size)), 1e-6, unit

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.double() if hidden.dtype == torch.float64 else hidden.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.weight + int(self.unit)) * wide.to(hidden.dtype)


class Wide(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.double(), self.normalized_shape, self.weight, self.bias,
                            self.eps).to(x.dtype)  # fmt: skip


class OverSamples(nn.Module):
    """Looks like a norm and is none."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.randn(size)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x.relu() * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


NORMS = {"rms": lambda: Root(4), "rms, one more": lambda: Root(4, True), "layer": lambda: Wide(4)}


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("kind", NORMS)
def test_norms_by_their_structure(monkeypatch: pytest.MonkeyPatch, kind: str, shadow: bool) -> None:
    monkeypatch.setattr(by_vmap, "vmap", None)
    model = nn.Sequential(nn.Linear(3, 4), NORMS[kind](), nn.Linear(4, 2)).double()
    x = torch.randn(B, 5, 3, dtype=torch.float64)
    expected = Shares(model, lambda i: model(x[i : i + 1]).square().sum(), B)
    plain = model(x)
    asked = {"variance": True, "inner_products": True}
    with layer_statistics(model, shadow=shadow, on_other="raise", **asked) as recorder:
        output = model(x)
        assert torch.equal(output, plain)
        output.square().sum().backward()
        expected.check(model, recorder.statistics(), 1e-9)


def test_a_module_that_only_looks_like_a_norm() -> None:
    assert find_runner(OverSamples(4)) is None
    assert find_runner(Root(4)) is not None


@pytest.mark.parametrize("name", ["llama.modeling_llama.LlamaRMSNorm",
                                  "mistral.modeling_mistral.MistralRMSNorm",
                                  "qwen2.modeling_qwen2.Qwen2RMSNorm",
                                  "t5.modeling_t5.T5LayerNorm",
                                  "gemma.modeling_gemma.GemmaRMSNorm"])  # fmt: skip
def test_the_norms_of_transformers(name: str) -> None:
    pytest.importorskip("transformers", reason="Transformers is not installed")
    module, _, kind = name.rpartition(".")
    found = __import__(f"transformers.models.{module}", fromlist=[kind])
    assert find_runner(getattr(found, kind)(16)) is not None
