"""A model while it is measured: copies of it, other contexts, torch.func, parameters of hooks."""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from typing import Any

import pytest
import torch
from support.refusals import refused
from support.shares import Shares
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 6


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def pickled(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
@pytest.mark.parametrize("compiler", [False, True])
def test_copies_of_a_measured_model_are_plain_models(duplicate: Any, compiler: bool) -> None:
    """Such as an average of the weights, or the best model so far."""
    if compiler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript, which it imports
            importlib.import_module("torch._dynamo")  # forwards are then kept from the compiler
    model, x = network(), normal(B, 4)
    before = model(x)
    with layer_statistics(model) as recorder:
        model(x).sum().backward()
        other = duplicate(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        torch.testing.assert_close(other(x), before)
        other(x[:2]).sum().backward()
        assert recorder.statistics().batch_size == B
    torch.testing.assert_close(other(x), before)
    other.zero_grad()
    expected = Shares(other, lambda i: other(x[i : i + 1]).square().sum(), B)
    with layer_statistics(other, on_other="raise") as recorder:
        other(x).square().sum().backward()
        expected.check(other, recorder.statistics(), 1e-9)


def test_a_context_within_another() -> None:
    model, x = network(), normal(B, 4)
    other = layer_statistics(model)
    for inner in (lambda: layer_statistics(model), lambda: layer_statistics(model[0]),
                  lambda: other):  # fmt: skip
        with layer_statistics(model) as recorder:
            with pytest.raises(ValueError, match="measured by another layer_statistics"), inner():
                pass
            model.zero_grad()
            model(x).square().sum().backward()
            assert recorder.statistics().batch_size == B
        assert not any("forward" in module.__dict__ for module in model.modules())


def test_transforms_of_torch_func_see_the_plain_model() -> None:
    model, x = network(), normal(B, 4)
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        output: Tensor = torch.func.functional_call(model, values, (x,))
        return output.square().sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript, which jvp imports
        gradient, forward = torch.func.grad(loss)(values), torch.func.jvp(model, (x,), (x,))[1]
    with layer_statistics(model) as recorder:
        output = model(x)
        torch.testing.assert_close(torch.func.grad(loss)(values), gradient)
        torch.testing.assert_close(torch.func.jvp(model, (x,), (x,))[1], forward)
        torch.testing.assert_close(torch.func.vmap(model)(x), output)
        output.square().sum().backward()
        assert recorder.statistics().batch_size == B


def test_tensors_in_the_place_of_parameters() -> None:
    model, x = network(), normal(B, 4)
    values = {name: parameter * 1 for name, parameter in model.named_parameters()}
    for called in (model, model[0]):
        own = values if called is model else {n[2:]: v for n, v in values.items() if n[0] == "0"}
        with refused(model, "replaced", "functional_call"), layer_statistics(model):
            torch.func.functional_call(called, own, (x,))


def test_weights_that_a_hook_computes() -> None:
    """The older weight_norm sets the weight as a plain tensor before each forward."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 3)).double()
    x = normal(B, 4)
    expected = Shares(model, lambda i: model(x[i : i + 1]).square().sum(), B)
    with warnings.catch_warnings(), layer_statistics(model, variance=True) as recorder:
        warnings.simplefilter("ignore")  # vmap has no rule for weight_norm's backward
        model(x).square().sum().backward()
        expected.check(model, recorder.statistics(), 1e-9)


def test_an_attention_with_a_forward_on_the_instance() -> None:
    """It runs, and is not replaced by that of its class."""
    model, x = nn.MultiheadAttention(4, 2, batch_first=True).double(), normal(B, 3, 4)
    inner = model.forward
    model.forward = lambda x: 2 * inner(x, x, x)[0]
    expected = Shares(model, lambda i: model(x[i : i + 1]).square().sum(), B)
    with layer_statistics(model) as recorder:
        model(x).square().sum().backward()
        expected.check(model, recorder.statistics(), 1e-9)


def test_parameters_of_other_modules_frozen_within() -> None:
    """As ruled layers do, a module without a rule measures what is in training at its call."""

    class Curve(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Parameter(torch.ones(4)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.first + x.square() * self.second

    model, x = nn.Sequential(nn.Linear(4, 4), Curve()).double(), normal(B, 4)
    with layer_statistics(model) as recorder:
        for frozen in (model[1].first, model[1].second):
            frozen.requires_grad_(False)
            plain = copy.deepcopy(model)
            expected = Shares(plain, lambda i, plain=plain: plain(x[i : i + 1]).square().sum(), B)
            model(x).square().sum().backward()
            expected.check(model, recorder.statistics(), 1e-9)
            model.zero_grad()
        model.requires_grad_(False)
        model(x[:2])


def test_lazy_modules() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    with pytest.raises(UnsupportedModelError, match="lazy"):
        layer_statistics(model)
