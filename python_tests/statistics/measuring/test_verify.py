"""Gradients that are changed between the backward pass and the record are noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.refusals import assert_intact, plain
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 6
CHANGES: dict[str, Callable[[nn.Linear], object]] = {
    "clipped by norm": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.01),
    "clipped by value": lambda m: nn.utils.clip_grad_value_(m.parameters(), 1e-3),
    "set to zero": lambda m: m.zero_grad(set_to_none=False),
    "set to none": lambda m: m.zero_grad(),
    "scaled in place": lambda m: m.weight.grad.mul_(0.1),
    "scaled through .data": lambda m: m.weight.grad.data.mul_(0.1),
    "replaced": lambda m: setattr(m.weight, "grad", m.weight.grad * 0.1),
    "scaled together": lambda m: torch._foreach_mul_([p.grad for p in m.parameters()], 0.5),
}


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_between_the_backward_pass_and_the_record(name: str, shadow: bool) -> None:
    model = nn.Linear(3, 2)
    with layer_statistics(model, shadow=shadow) as recorder:
        model(torch.randn(B, 3)).square().mean().backward()
        CHANGES[name](model)
        with pytest.raises(ValueError, match=r"(was changed|is not in \.grad).*statistics\(\)"):
            recorder.statistics()


def test_unscaled() -> None:
    model = nn.Linear(3, 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with layer_statistics(model) as recorder:
        scaler.scale(model(torch.randn(B, 3)).square().mean()).backward()
        scaler.unscale_(optimizer)
        with pytest.raises(ValueError, match=r"unscaled.*grad_scale="):
            recorder.statistics(grad_scale=64.0)


def test_between_micro_batches() -> None:
    model = nn.Linear(3, 2)
    with layer_statistics(model) as recorder:
        model(torch.randn(B, 3)).square().mean().backward()
        model.weight.grad.mul_(0.5)
        with pytest.raises(ValueError, match="'weight' was changed"):
            model(torch.randn(B, 3))
        recorder.reset()


def in_place(grad: Tensor) -> None:
    grad[:1] = 0


def out_of_place(grad: Tensor) -> Tensor:
    return grad * 0.1


def after_it_is_there(parameter: Tensor) -> None:
    parameter.grad.mul_(0.1)


@pytest.mark.parametrize("when", ["before the context", "inside", "after the forward pass"])
@pytest.mark.parametrize("hook", [in_place, out_of_place, after_it_is_there])
def test_hooks(hook: Callable[..., Tensor | None], when: str) -> None:
    """``.grad`` is as they leave it, and there is no record of another gradient."""
    model, x = nn.Linear(3, 2), torch.randn(B, 3)

    def register() -> None:
        after = hook is after_it_is_there
        weight = model.weight
        (weight.register_post_accumulate_grad_hook if after else weight.register_hook)(hook)

    def loss() -> Tensor:
        value = model(x).square().mean()
        if when == "after the forward pass":
            register()
        return value

    if when == "before the context":
        register()
    with layer_statistics(model) as recorder:
        if when == "inside":
            register()
        loss().backward()
        if hook is after_it_is_there and when == "after the forward pass":
            return  # heard by nobody: it changes what was not there yet
        with pytest.raises(ValueError, match="weight"):
            recorder.statistics()
        found = [p.grad.clone() for p in model.parameters()]
    if when != "after the forward pass":
        expected = plain(model, loss)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("hook", [Tensor.clone, torch.nan_to_num])
def test_hooks_that_give_a_copy(hook: Callable[[Tensor], Tensor]) -> None:
    """They change nothing, and nothing is refused; where there is something to change, it is."""
    model, x = nn.Linear(3, 2), torch.randn(B, 3)
    model.weight.register_hook(hook)
    with layer_statistics(model, on_nonfinite="record") as recorder:
        model(x).square().mean().backward()
        record = recorder.statistics()
        assert record is not None
        assert record.batch_size == B
        if hook is torch.nan_to_num:
            model.zero_grad()
            (model(x).square().mean() * torch.nan).backward()
            with pytest.raises(ValueError, match="weight"):
                recorder.statistics()


@pytest.mark.parametrize("shadow", [False, True])
def test_a_penalty_on_shared_values(shadow: bool) -> None:
    """No sample owns it: ``.grad`` is the plain step's, and the refusal names the layer."""
    place, token, head = nn.Embedding(5, 4), nn.Embedding(9, 4), nn.Linear(4, 2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place, self.token, self.head = place, token, head

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            p = self.place(torch.arange(x.shape[1]))
            return self.head((self.token(x) + p).tanh()), (p[1:] - p[:-1]).square().mean()

    model, x = Net(), torch.randint(9, (B, 5))

    def loss() -> Tensor:
        output, smooth = model(x)
        return output.square().mean() + smooth

    expected = plain(model, loss)
    with layer_statistics(model, shadow=shadow) as recorder:
        loss().backward()
        with pytest.raises(UnsupportedModelError, match=r"'place' \(Embedding\).*penalty"):
            recorder.statistics()
    assert_intact(model, expected)


def test_a_penalty_added_after_the_record() -> None:
    """The way out."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(B, 3)
    expected = plain(model, lambda: model(x).square().mean() + model[0].weight.square().sum())
    with layer_statistics(model) as recorder:
        model(x).square().mean().backward()
        assert recorder.statistics().batch_size == B
    model[0].weight.square().sum().backward()
    assert_intact(model, expected)


def test_a_micro_batch_without_samples() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(4, 3)
    with layer_statistics(model, variance=True) as recorder:
        model(x).sum().backward()
        alone = recorder.statistics()
        model.zero_grad()
        for rows in (x[:0], x, x[:0]):
            model(rows).sum().backward()
        among = recorder.statistics()
        model.zero_grad()
        model(x[:0]).sum().backward()
        assert not any(p.grad.any() for p in model.parameters())
        with pytest.raises(ValueError, match="batch is empty"):
            recorder.statistics()
    assert among.batch_size == alone.batch_size == 4
    torch.testing.assert_close(among.sq_norms, alone.sq_norms)
    for name, expected in alone.variance.items():
        torch.testing.assert_close(among.variance[name], expected)
