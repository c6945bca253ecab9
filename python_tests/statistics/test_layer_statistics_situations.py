"""layer_statistics in the ways that models are trained, against one sample at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from support.shares import Shares
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adadagrad_kernels import BatchController, NormTest
from adadagrad_kernels.statistics import layer_statistics

B = 6
TOLERANCE = 1e-9


def normal(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


def network() -> nn.Sequential:
    layers = (nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    return nn.Sequential(*layers).double()


def assert_step(
    model: nn.Module,
    share: Callable[[slice], Tensor],
    step: Callable[[], None] | None = None,
    inner_products: bool = True,
    rtol: float = TOLERANCE,
) -> None:
    """Run a step, a backward pass of all shares if not told otherwise, and check everything."""
    expected = Shares(model, lambda i: share(slice(i, i + 1)), B)
    model.zero_grad()
    with layer_statistics(model, inner_products=inner_products, variance=True) as recorder:
        step() if step else share(slice(0, B)).backward()
        record = recorder.statistics()
    expected.check(model, record, rtol)


def test_the_sum_of_the_losses() -> None:
    """The gradient of a sample's share, times the batch size."""
    model, x, y = network(), normal(4), torch.randint(3, (B,))
    assert_step(model, lambda rows: F.cross_entropy(model(x[rows]), y[rows], reduction="sum"))


def test_a_loss_that_weighs_tokens() -> None:
    """A mean over the tokens of all samples, of which some have more; one has none."""
    model, x, y = network(), normal(7, 4), torch.randint(3, (B, 7))
    y[torch.rand(B, 7) < 0.4] = -100
    y[2] = -100
    tokens = (y != -100).sum()

    def share(rows: slice) -> Tensor:
        losses = F.cross_entropy(model(x[rows]).flatten(0, 1), y[rows].flatten(), reduction="sum")
        return losses / tokens

    assert_step(model, share)


def test_a_loss_among_the_parts_of_a_model() -> None:
    """As modules of Lightning have it: parts are called alone, and the loss has no parameters."""
    parts = {"net": network(), "act": nn.Tanh(), "loss": nn.CrossEntropyLoss(reduction="sum")}
    model, x, y = nn.ModuleDict(parts), normal(4), torch.randint(3, (B,))

    def share(rows: slice) -> Tensor:
        loss: Tensor = model["loss"](model["act"](model["net"](x[rows])), y[rows]) / B
        return loss

    assert_step(model, share)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 5), (3, 1, 2)])
def test_gradient_accumulation(sizes: tuple[int, ...]) -> None:
    """Micro-batches are one batch, their losses scaled by their share or not at all."""
    model, x, y = network(), normal(4), normal(3)
    ends = torch.tensor(sizes).cumsum(0).tolist()

    def share(rows: slice) -> Tensor:
        return F.mse_loss(model(x[rows]), y[rows], reduction="sum") / (3 * B)

    def step() -> None:
        for size, end in zip(sizes, ends, strict=True):
            share(slice(end - size, end)).backward()

    assert_step(model, share, step, inner_products=False)


def test_accumulation_of_shared_parameters() -> None:
    twice = nn.Linear(4, 4).double()
    model = nn.Sequential(twice, nn.Tanh(), twice)
    x = normal(4)

    def share(rows: slice) -> Tensor:
        return model(x[rows]).square().sum()

    def step() -> None:
        share(slice(0, 2)).backward()
        share(slice(2, B)).backward()

    assert_step(model, share, step, inner_products=False)


def test_several_losses_added() -> None:
    trunk, left, right = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)
    model = nn.ModuleList([trunk, left, right]).double()
    x = normal(4)

    def share(rows: slice) -> Tensor:
        hidden = trunk(x[rows]).tanh()
        return left(hidden).square().sum() + 0.3 * right(hidden).pow(4).sum()

    assert_step(model, share)


def test_several_losses_each_with_a_backward_of_its_own() -> None:
    """Heads that share no measured layer, behind a frozen trunk."""
    trunk, left, right = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)
    model = nn.ModuleList([trunk.requires_grad_(False), left, right]).double()
    x = normal(4)

    def share(rows: slice) -> Tensor:
        hidden = trunk(x[rows]).tanh()
        return left(hidden).square().sum() + right(hidden).pow(4).sum()

    def step() -> None:
        hidden = trunk(x).tanh()
        one, other = left(hidden).square().sum(), right(hidden).pow(4).sum()
        one.backward()
        other.backward()

    assert_step(model, share, step)


def test_two_forward_passes_before_the_backward() -> None:
    """Pairs of samples, as a siamese network sees them: one batch, every layer used twice."""
    model, x, other = network(), normal(4), normal(4)
    assert_step(model, lambda rows: (model(x[rows]) - model(other[rows])).square().sum())


class Tied(nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=bias)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.embedding(tokens).tanh())
        return output


@pytest.mark.parametrize("bias", [False, True])
def test_tied_weights(bias: bool) -> None:
    model = Tied(bias).double()
    tokens = torch.randint(7, (B, 5))

    def share(rows: slice) -> Tensor:
        return F.cross_entropy(model(tokens[rows]).mT, tokens[rows], reduction="sum")

    assert_step(model, share)


class Checkpointed(nn.Module):
    """Two blocks whose activations are computed again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.second = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.PReLU(4))

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.first, self.second):
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    model = Checkpointed(False).double()
    x = normal(4).requires_grad_()

    def share(rows: slice) -> Tensor:
        return model(x[rows]).square().sum()

    def step() -> None:
        model.reentrant = reentrant  # whose gradient autograd.grad, the oracle, cannot take
        share(slice(0, B)).backward()

    assert_step(model, share, step)


def test_parameters_that_the_loss_does_not_reach() -> None:
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 2)]).double()
    x = normal(4)

    def share(rows: slice) -> Tensor:
        model[1](x[rows])
        return model[0](x[rows]).square().sum()

    assert_step(model, share)
    assert model[1].weight.grad is None


def test_an_evaluation_between_the_passes() -> None:
    """Other samples under no_grad do not count, whatever their number."""
    model, x, held_out = network(), normal(4), torch.randn(11, 4, dtype=torch.float64)

    def share(rows: slice) -> Tensor:
        return model(x[rows]).square().sum()

    def step() -> None:
        with torch.no_grad():
            model(held_out)
        loss = share(slice(0, B))
        with torch.no_grad():
            model(held_out)
        loss.backward()
        with torch.no_grad():
            model(held_out)

    assert_step(model, share, step)


def test_a_batch_of_one() -> None:
    model, x = network(), torch.randn(1, 4, dtype=torch.float64)
    with layer_statistics(model, variance=True, inner_products=True) as recorder:
        model(x).square().sum().backward()
        record = recorder.statistics()
    assert record.batch_size == 1
    assert record.sum_sq_norms == pytest.approx(record.mean_sq_norm)
    assert record.inner_products.item() == pytest.approx(record.mean_sq_norm)
    assert not any(value.any() for value in record.variance.values())


def test_loss_scaling_is_taken_out() -> None:
    model, x = network(), normal(4)
    records = []
    for scale in (1.0, 1024.0):
        model.zero_grad()
        with layer_statistics(model, variance=True, inner_products=True) as recorder:
            (model(x).square().mean() * scale).backward()
            records.append(recorder.statistics(grad_scale=scale))
    for name in ("mean_sq_norm", "sum_sq_norms", "sum_sq_inner_products", "variance_norm"):
        assert getattr(records[1], name) == pytest.approx(getattr(records[0], name), rel=1e-12)
    for name, value in records[0].variance.items():
        torch.testing.assert_close(records[1].variance[name], value)


def test_measures_every_so_many_steps() -> None:
    model, x = network(), normal(4)
    found = []
    with layer_statistics(model, interval=3) as recorder:
        for _ in range(7):
            model.zero_grad()
            model(x).square().mean().backward()
            grads = [p.grad.clone() for p in model.parameters()]
            found.append((recorder.measures, recorder.statistics() is not None))
            after = [p.grad for p in model.parameters()]
            assert all(map(torch.equal, grads, after))
    assert found == [(step % 3 == 2, step % 3 == 2) for step in range(7)]


def test_shadow_leaves_the_gradient_bit_by_bit() -> None:
    model, x = network(), normal(4)
    model(x).square().mean().backward()
    plain = [p.grad for p in model.parameters()]
    model.zero_grad()
    with layer_statistics(model, shadow=True) as recorder:
        output = model(x)
        output.square().mean().backward()
        recorder.statistics()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True))


def test_a_training_loop_that_grows_its_batch() -> None:
    """One context around all steps; the record drives a controller."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    controller = BatchController(NormTest(eta=0.5), batch_size=4, max_batch_size=64)
    with layer_statistics(model) as recorder:
        for _ in range(30):
            x = torch.randn(controller.batch_size, 4)
            optimizer.zero_grad()
            F.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
            record = recorder.statistics()
            assert record.batch_size == len(x)
            optimizer.step()
            controller.update(record)
    assert controller.batch_size > 4


def test_forgets_a_step_that_is_repeated() -> None:
    model, x = network(), normal(4)
    with layer_statistics(model) as recorder:
        model(x[:2]).square().sum().backward()
        recorder.reset()
        model.zero_grad()
        model(x).square().sum().backward()
        assert recorder.statistics().batch_size == B


def test_contexts_one_after_the_other_and_instance_forwards() -> None:
    """A forward that somebody put on the instance is a kind of its own, and comes back."""
    model, x = network(), normal(4)
    inner = model[0].forward
    model[0].forward = lambda inputs: 2 * inner(inputs)
    own = model[0].__dict__["forward"]
    for _ in range(2):
        assert_step(model, lambda rows: model(x[rows]).square().sum())
        assert model[0].__dict__["forward"] is own
        assert "forward" not in model[3].__dict__


@pytest.mark.parametrize("compile_", ["a module around it", "in place"])
def test_compiled_models(compile_: str) -> None:
    torch._dynamo.reset()
    model, x = network(), normal(4)
    called: nn.Module = model
    if compile_ == "in place":
        model.compile(backend="aot_eager")
    else:
        called = torch.compile(model, backend="aot_eager")
    called(x)
    expected = Shares(model, lambda i: called(x[i : i + 1]).square().sum(), B)
    for _ in range(2):
        model.zero_grad()
        with layer_statistics(called, variance=True, inner_products=True) as recorder:
            called(x).square().sum().backward()
            record = recorder.statistics()
        expected.check(model, record, TOLERANCE)
    torch._dynamo.reset()
