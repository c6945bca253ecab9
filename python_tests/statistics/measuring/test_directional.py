"""Inner products with a mean that micro-batches share: derivatives of the samples' losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.shares import Shares
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics

B = 6


class Model(nn.Module):
    """A layer used twice, tied to nothing, and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice = nn.Linear(4, 5), nn.Linear(5, 5)
        self.norm, self.scale = nn.LayerNorm(5), nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x)).tanh()
        return self.scale * self.twice(self.twice(hidden).tanh())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("sizes", [(2, 3, 1), (6,)])
def test_several_micro_batches(sizes: tuple[int, ...], exact: bool) -> None:
    torch.manual_seed(2)
    model = Model().double()
    x = torch.randn(B, 4, dtype=torch.float64)
    y = torch.randint(5, (B,))

    def losses(rows: slice = slice(0, B)) -> Tensor:
        return F.cross_entropy(model(x[rows]), y[rows], reduction="none")

    expected = Shares(model, lambda i: losses(slice(i, i + 1)).sum() / B, B)
    before = [p.detach().clone() for p in model.parameters()]
    with layer_statistics(model) as recorder:
        start = 0
        for size in sizes:
            (losses(slice(start, start + size)).sum() / B).backward()
            start += size
        record = recorder.statistics(losses, exact=exact)
    expected.check(model, record, 1e-9 if exact else 1e-4)
    assert record.inner_products is not None
    assert all(map(torch.equal, before, model.parameters()))
    assert all(isinstance(p, nn.Parameter) for p in model._parameters.values())


def test_attention_that_torch_fuses() -> None:
    torch.manual_seed(3)
    model = nn.MultiheadAttention(4, 2, batch_first=True).double()
    x = torch.randn(B, 3, 4, dtype=torch.float64)

    def losses(rows: slice = slice(0, B)) -> Tensor:
        part = x[rows]
        return model(part, part, part, need_weights=False)[0].square().sum((1, 2))

    expected = Shares(model, lambda i: losses(slice(i, i + 1)).sum() / B, B)
    with layer_statistics(model) as recorder:
        for rows in (slice(0, 2), slice(2, B)):
            (losses(rows).sum() / B).backward()
        record = recorder.statistics(losses)
    expected.check(model, record, 1e-9)
    assert torch.backends.cuda.flash_sdp_enabled(), "as it was"


def test_layers_without_forward_mode_are_told_what_to_do() -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)

    def losses() -> Tensor:
        return _NoForwardMode.apply(model(x)).sum(1)  # type: ignore[no-untyped-call, no-any-return]

    with layer_statistics(model) as recorder:
        losses().mean().backward()
        with pytest.raises(RuntimeError, match=r"no such derivative .*exact=False"):
            recorder.statistics(losses)
        model.zero_grad()
        losses().mean().backward()
        record = recorder.statistics(losses, exact=False)
    assert record.inner_products is not None
    gradient = torch.cat([x, torch.ones(4, 1)], 1)  # of the weight and of the bias
    expected = 2.0 * gradient @ gradient.mean(0)
    torch.testing.assert_close(record.inner_products.float(), expected, rtol=1e-2, atol=1e-3)


class _NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def test_attention_that_has_no_forward_mode() -> None:
    model = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(B, 3, 4)

    def losses() -> Tensor:
        return model(x, x, x, need_weights=False)[0].square().sum((1, 2))

    products = []
    for exact in (True, False):
        model.zero_grad()
        with layer_statistics(model, inner_products=True) as recorder:
            losses().mean().backward()
            if exact:
                products.append(recorder.statistics().inner_products)
            else:
                products.append(recorder.statistics(losses, exact=False).inner_products)
    torch.testing.assert_close(products[1], products[0], rtol=1e-2, atol=1e-3)


def test_micro_batches_without_a_function_of_the_losses() -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with layer_statistics(model, inner_products=True) as recorder:
        model(x[:2]).sum().backward()
        model(x[2:]).sum().backward()
        with pytest.raises(ValueError, match=r"2 micro-batches.*losses="):
            recorder.statistics()


def test_losses_of_another_number_of_samples() -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with layer_statistics(model) as recorder:
        model(x).sum().backward()
        with pytest.raises(ValueError, match=r"inner_products has shape \(2,\)"):
            recorder.statistics(lambda: model(x[:2]).sum(1))


def test_losses_that_do_not_depend_on_the_model() -> None:
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with layer_statistics(model) as recorder:
        model(x).sum().backward()
        with pytest.raises(ValueError, match="does not depend"):
            recorder.statistics(lambda: x.sum(1))
