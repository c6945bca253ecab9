"""What comes between forward and backward passes: other gradients, other parameters, errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.layer_records import norms_of_one_step
from support.refusals import refused
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics

B = 6


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def taken_by_autograd_grad(model: nn.Module, loss: Tensor) -> None:
    torch.autograd.grad(loss, list(model.parameters()))


def zeroed_too_early(model: nn.Module, loss: Tensor) -> None:
    loss.backward()
    model.zero_grad()


def used_in_the_backward_pass(model: nn.Module, loss: Tensor) -> None:
    def use(parameter: Tensor) -> None:
        parameter.grad = None

    handles = [p.register_post_accumulate_grad_hook(use) for p in model.parameters()]
    loss.backward()
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    "backward", [taken_by_autograd_grad, zeroed_too_early, used_in_the_backward_pass]
)
def test_a_gradient_that_is_not_in_grad(backward: Callable[[nn.Module, Tensor], None]) -> None:
    """The record would say that the mean gradient is zero."""
    model, x = network(), normal(B, 4)
    with refused(model, "'0.weight'", "zero_grad()"), layer_statistics(model) as recorder:
        backward(model, model(x).square().sum())
        recorder.statistics()


@pytest.mark.parametrize("shadow", [False, True])
def test_a_gradient_of_the_inputs_alone_is_no_micro_batch(shadow: bool) -> None:
    """As adversarial training takes one before its forward pass, or a saliency map after it."""
    model, x = network(), normal(B, 4).requires_grad_()
    expected = norms_of_one_step(model, x.detach())
    with layer_statistics(model, shadow=shadow) as recorder:
        for _ in range(2):
            model.zero_grad()
            torch.autograd.grad(model(x[:3]).square().sum(), x)
            model(x.detach()).square().sum().backward()
            torch.autograd.grad(model(x[:2]).square().sum(), x)
            torch.testing.assert_close(recorder.statistics().sq_norms, expected)


@pytest.mark.parametrize("set_to_none", [False, True])
@pytest.mark.parametrize("after_forward", [False, True])
def test_steps_without_statistics(set_to_none: bool, after_forward: bool) -> None:
    """Samples whose gradient was dropped would count as those of the last step."""
    if after_forward and not set_to_none:
        pytest.skip("noticed at the next forward pass only")
    model, x = network(), normal(B, 4)
    with refused(model, "statistics() in every step", "reset()"), layer_statistics(model) as r:
        for _ in range(2):
            if not after_forward:
                model.zero_grad(set_to_none)
            loss = model(x).square().sum()
            if after_forward:
                model.zero_grad()
            loss.backward()
        r.statistics()


def test_a_gradient_of_zeros_before_another_micro_batch() -> None:
    model, x = network(), normal(B, 4)
    with layer_statistics(model) as recorder:
        (0 * model(x).square().sum()).backward()
        model(x).square().sum().backward()
        record = recorder.statistics()
    assert record.batch_size == 2 * B
    assert not record.sq_norms[:B].any()


def test_an_error_in_a_backward_pass_and_the_step_after_it() -> None:
    model, x = network(), normal(B, 4)
    expected = norms_of_one_step(model, x)

    def fail(grad: Tensor) -> None:
        raise KeyError

    def broken_step() -> None:
        hidden = model[0](x)
        hidden.register_hook(fail)
        with pytest.raises(KeyError):
            model[2](hidden.tanh()).sum().backward()
        model.zero_grad()

    with refused(model, "reset()"), layer_statistics(model):
        broken_step()
        model(x)
    with layer_statistics(model) as recorder:
        broken_step()
        recorder.reset()
        model(x).square().sum().backward()
        torch.testing.assert_close(recorder.statistics().sq_norms, expected)


def unfreeze(model: nn.Sequential) -> None:
    model[2].bias.requires_grad_(True)


def replace(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(normal(5, 4))


def append(model: nn.Sequential) -> None:
    model.append(nn.Linear(3, 3).double())


@pytest.mark.parametrize("change", [unfreeze, replace, append])
def test_parameters_that_come_later(change: Callable[[nn.Sequential], None]) -> None:
    """``.grad`` would have their gradient, and the norms of the samples not."""
    model, x = network(), normal(B, 4)
    model[2].bias.requires_grad_(False)
    with refused(model, "the parameter '", "new"), layer_statistics(model) as recorder:
        model(x).square().sum().backward()
        recorder.statistics()
        model.zero_grad()
        change(model)
        model(x)


@pytest.mark.parametrize("layer", ["linear", "conv", "dense embedding", "sparse embedding"])
def test_a_penalty_before_the_forward_pass(layer: str) -> None:
    """Its gradient comes after the layer's, and must not be added in its place unseen."""
    model, x = {
        "linear": (nn.Linear(4, 2), torch.randn(B, 4)),
        "conv": (nn.Conv1d(4, 2, 1, bias=False), torch.randn(B, 4, 3)),
        "dense embedding": (nn.Embedding(9, 2), torch.randint(9, (B, 3))),
        "sparse embedding": (nn.Embedding(9, 2, sparse=True), torch.randint(9, (B, 3))),
    }[layer]
    with refused(model, "'weight'", "penalty"), layer_statistics(model) as recorder:
        penalty = model.weight.square().sum()
        (model(x).square().sum() + penalty).backward()
        recorder.statistics()
