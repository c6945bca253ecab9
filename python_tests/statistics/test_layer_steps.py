"""What comes between forward and backward passes: other gradients, other parameters, errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from refusals import refused
from torch import Tensor, nn

from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.criteria import NormTest
from adadagrad_kernels.statistics import layer_statistics

B = 6


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def of_one_step(model: nn.Module, x: Tensor) -> Tensor:
    """The norms that a step on its own has."""
    model.zero_grad()
    with layer_statistics(model) as recorder:
        model(x).square().sum().backward()
        norms: Tensor = recorder.statistics().sq_norms
    model.zero_grad()
    return norms


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
    expected = of_one_step(model, x.detach())
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
    expected = of_one_step(model, x)

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


def test_the_steps_to_measure_are_asked_for_one_by_one() -> None:
    """Asked at the first forward pass of each, with one answer for all of its micro-batches."""
    model, x = network(), normal(B, 4)
    expected, wanted = of_one_step(model, x), True
    with layer_statistics(model, when=lambda: wanted) as recorder:
        for measured in [True, False, True]:
            wanted = measured
            model.zero_grad()
            for part in x.split(2):
                model(part).square().sum().backward()
            assert recorder.measures is measured
            record = recorder.statistics()
            assert (record is not None) is measured
            if record is not None:
                torch.testing.assert_close(record.sq_norms, expected)


def test_an_evaluation_does_not_settle_whether_a_step_is_measured() -> None:
    model, x = network(), normal(B, 4)
    wanted = False
    with layer_statistics(model, when=lambda: wanted) as recorder:
        with torch.no_grad():
            model(x)
        wanted = True
        model(x).square().sum().backward()
        assert recorder.statistics() is not None


def test_a_controller_says_which_steps_it_wants() -> None:
    """At the cap the layers run as they are; until then nothing differs."""
    sizes = []
    for when in (True, False):
        torch.manual_seed(0)
        model = network()
        controller = BatchController(
            NormTest(eta=0.3), batch_size=4, max_batch_size=48, test_interval=2
        )
        wanted = {"when": controller.wants_test} if when else {}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        used = []
        with layer_statistics(model, **wanted) as recorder:
            for _ in range(9):
                expected = controller.wants_test()
                used.append(controller.batch_size)
                optimizer.zero_grad()
                model(normal(controller.batch_size, 4)).square().mean().backward()
                record = recorder.statistics()
                optimizer.step()
                assert not when or (record is not None) is expected
                if record is None:
                    controller.step(used[-1])
                else:
                    controller.update(record)
        sizes.append(used)
    assert sizes[0] == sizes[1]
    assert sizes[0][0] == 4
    assert sizes[0][-1] == 48


def test_a_step_that_is_not_measured_may_end_without_being_asked_for_statistics() -> None:
    model, x = network(), normal(B, 4)
    expected, wanted = of_one_step(model, x), False
    with layer_statistics(model, when=lambda: wanted) as recorder:
        for _ in range(3):
            model.zero_grad()
            model(x).square().sum().backward()
        wanted = True
        model.zero_grad()
        model(x).square().sum().backward()
        torch.testing.assert_close(recorder.statistics().sq_norms, expected)


def test_a_measured_step_stays_one_whatever_is_wanted_later() -> None:
    model, x = network(), normal(B, 4)
    expected, wanted = of_one_step(model, x), True
    with layer_statistics(model, when=lambda: wanted) as recorder:
        model(x[:2]).square().sum().backward()
        wanted = False
        model(x[2:]).square().sum().backward()
        torch.testing.assert_close(recorder.statistics().sq_norms, expected)
        assert not recorder.measures
