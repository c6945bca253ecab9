"""layer_statistics in narrow types and under autocast."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from support.shares import Shares
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics

B = 6


def normal(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


def network() -> nn.Sequential:
    layers = (nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    return nn.Sequential(*layers).double()


class Mixed(nn.Module):
    """Every kind of layer that autocast treats in its own way, and no kink to fall beside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.embedding = nn.Embedding(7, 8)
        self.norm, self.rms = nn.LayerNorm(8), nn.RMSNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear, self.twice = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        pixels = F.gelu(self.group(self.conv(x))).flatten(2).mT
        tokens = pixels + self.embedding(torch.arange(7).expand(len(x), 7)).mean(1, keepdim=True)
        tokens = self.norm(tokens)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        tokens = self.twice(self.twice(self.rms(tokens)).tanh())
        return self.linear(tokens).float().mean(1)


def test_autocast_to_bfloat16() -> None:
    """Gradients are no farther from the exact ones than those of a plain backward."""
    model, x, y = Mixed(), torch.randn(B, 3, 4, 4), torch.randint(8, (B,))

    def share(rows: slice) -> Tensor:
        return F.cross_entropy(model(x[rows]), y[rows], reduction="sum") / B

    exact = Shares(model, lambda i: share(slice(i, i + 1)), B)

    def cast(rows: slice) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return share(rows)

    off = {}
    for measured in (False, True):
        model.zero_grad()
        if measured:
            with layer_statistics(model, variance=True, inner_products=True) as recorder:
                cast(slice(0, B)).backward()
                record = recorder.statistics()
        else:
            cast(slice(0, B)).backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
        assert all(p.grad.dtype == p.dtype for p in model.parameters())
        off[measured] = float((flat - exact.rows.mean(0)).norm() / exact.rows.mean(0).norm())
    assert off[True] < 1.2 * off[False] + 1e-3
    assert off[False] < 0.05
    relative = record.sq_norms / exact.rows.square().sum(1) - 1
    assert float(relative.abs().max()) < 0.05
    mean_product = float(record.inner_products.mean())
    assert mean_product == pytest.approx(record.mean_sq_norm, rel=0.01)
    total = sum(float(value.double().sum()) for value in record.variance.values())
    assert total == pytest.approx(record.variance_norm, rel=0.01)


def test_parameters_in_bfloat16() -> None:
    model = network().bfloat16()
    x = torch.randn(B, 4, dtype=torch.bfloat16)
    with layer_statistics(model, variance=True) as recorder:
        model(x).float().square().mean().backward()
        record = recorder.statistics()
    assert all(p.grad.dtype == torch.bfloat16 for p in model.parameters())
    total = sum(float(value.double().sum()) for value in record.variance.values())
    assert total == pytest.approx(record.variance_norm, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_rms_norm_without_eps_of_small_inputs(dtype: torch.dtype, autocast: bool) -> None:
    """torch takes the eps of the dtype of sums, and in 2.6 that of 16-bit inputs."""
    x = (1e-2 * torch.randn(B, 8)).to(dtype)
    model = nn.Sequential(nn.RMSNorm(8)).to(torch.float32 if autocast else dtype)
    grads = []
    with torch.autocast("cpu", dtype, enabled=autocast), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it has no fused kernel for mixed dtypes
        model(x).float().sum().backward()
        grads.append(model[0].weight.grad)
        model.zero_grad()
        with layer_statistics(model) as recorder:
            model(x).float().sum().backward()
            recorder.statistics()
        grads.append(model[0].weight.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=2e-2, atol=2e-2)


def test_asking_the_model_leaves_no_cast_to_autocast(capsys: pytest.CaptureFixture[str]) -> None:
    """Torch 2.6 would take one made under no_grad for the step, and lose the gradient."""

    class Sees(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.activation = nn.Linear(4, 3), nn.PReLU()

        def forward(self, x: Tensor) -> Tensor:
            # Printed, since whatever else it wrote would be as before.
            print(torch.is_grad_enabled(), torch.is_autocast_cache_enabled())
            return self.activation(self.linear(x))

    model, x = Sees(), torch.randn(B, 4)

    def step() -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(x)
        outputs.float().square().mean().backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    plain = [grad.clone() for grad in step()]
    capsys.readouterr()
    with layer_statistics(model) as recorder:
        measured = step()
        recorder.statistics()
    seen = set(capsys.readouterr().out.splitlines())
    assert {"True True", "False False"} <= seen, "the step itself, and a question beside it"
    assert "False True" not in seen
    assert torch.is_autocast_cache_enabled()
    for ours, theirs in zip(measured, plain, strict=True):
        torch.testing.assert_close(ours, theirs)
