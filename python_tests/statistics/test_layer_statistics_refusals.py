"""Steps that layer_statistics refuses: errors name layer and way out, the model is restored."""

from __future__ import annotations

import pytest
import torch
from support.refusals import assert_intact, network, plain, refused
from torch import Tensor, nn

from adadagrad_kernels import BatchController, NormTest
from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 4


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False).eval()], ids=str
)
def test_batch_norm(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 4), norm)
    with (
        refused(model, "layer '1' (BatchNorm1d)", "GroupNorm", kind=UnsupportedModelError),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_batch_norm_that_leaves_evaluation_later() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval())
    with (
        refused(model, "layer '1' (BatchNorm1d)", kind=UnsupportedModelError),
        layer_statistics(model) as recorder,
    ):
        model(torch.randn(B, 3)).sum().backward()
        recorder.statistics()
        model.train()
        model(torch.randn(B, 3))


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_an_operation_that_mixes_samples() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), Centred()), nn.Linear(4, 2))
    with (
        refused(model, "layer '1.1' (Centred)", "mixes", kind=UnsupportedModelError),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_a_model_that_mixes_samples_itself() -> None:
    class Ranked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(0)

    model = Ranked(3, 2)
    with (
        refused(model, "the model", "mixes", kind=UnsupportedModelError),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_asking_the_model_changes_nothing_of_it() -> None:
    """Neither buffers nor random draws nor the number of its calls in later steps."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.dropout = nn.Linear(3, 3), nn.Dropout(0.5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.dropout(self.linear(x))

    model, x = Counts(), torch.randn(B, 3)
    torch.manual_seed(5)
    expected = model(x)
    model.calls.zero_()
    torch.manual_seed(5)
    with layer_statistics(model):
        assert torch.equal(model(x), expected)
        assert model.calls == 1
        model(x)
        assert model.calls == 2


def test_an_activation_changed_in_place() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            y = self.linear(x)
            x.mul_(2)
            return y

    model = Overwrites()
    loss = []
    with (
        refused(model, "layer 'linear' (Linear)", "inplace", "out-of-place", kind=RuntimeError),
        layer_statistics(model),
    ):
        loss.append(model(torch.randn(B, 3)).sum())
        loss[0].backward()
    assert model.linear.weight.grad is None


class Shift(nn.Module):
    """Whose backward pass needs no input."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def test_an_input_of_another_module_changed_in_place() -> None:
    """The step is the plain one; only its record is refused."""
    model, x = nn.Sequential(Shift()), torch.randn(B, 3)

    def loss() -> Tensor:
        inputs = x.clone()
        outputs = model(inputs)
        inputs.add_(1)
        return outputs.square().sum()

    expected = plain(model, loss)
    with refused(model, "(Shift)", "in place"), layer_statistics(model) as recorder:
        loss().backward()
        recorder.statistics()
    assert_intact(model, expected)


def test_an_input_of_a_bias_alone_changed_in_place() -> None:
    """A layer with a frozen weight needs no input, neither for its gradient nor for ours."""
    model, x = nn.Linear(3, 2), torch.randn(B, 3)
    model.weight.requires_grad_(False)
    with layer_statistics(model) as recorder:
        inputs = x.clone()
        outputs = model(inputs)
        inputs.add_(1)
        outputs.square().sum().backward()
        norms = recorder.statistics().sq_norms
    torch.testing.assert_close(norms, (B * 2 * model(x)).square().sum(1).double())


def test_a_layer_called_under_no_grad() -> None:
    model, x = network(), torch.randn(B, 3)

    def loss() -> Tensor:
        with torch.no_grad():
            hidden = model[0](x)
        return model[2](hidden.tanh()).square().sum()

    expected = plain(model, loss)
    with (
        refused(model, "layer '0' (Linear)", "no_grad", "requires_grad_(False)"),
        layer_statistics(model) as recorder,
    ):
        loss().backward()
        recorder.statistics()
    assert_intact(model, expected)


@pytest.mark.parametrize("shadow", [False, True])
def test_backward_called_twice(shadow: bool) -> None:
    """.grad is what two plain backward passes leave."""
    model, x = network(), torch.randn(B, 3)
    expected = plain(model, lambda: 2 * model(x).square().sum())
    with (
        refused(model, "layer '2' (Linear)", "backward ran twice", "add the losses"),
        layer_statistics(model, shadow=shadow) as recorder,
    ):
        loss = model(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        recorder.statistics()
    assert_intact(model, expected)


def test_statistics_before_a_backward() -> None:
    model, x = network(), torch.randn(B, 3)
    with refused(model, "backward"), layer_statistics(model) as recorder:
        recorder.statistics()
    with refused(model, "backward"), layer_statistics(model) as recorder:
        model(x)
        recorder.statistics()


def test_a_batch_dimension_that_differs() -> None:
    class Flattens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.first(x).transpose(0, 1).flatten(0, 1)
            return self.second(rows).view(5, len(x), -1).transpose(0, 1)

    model = Flattens()
    with (
        refused(model, "layer 'second' (Linear)", "20 rows", f"{B} samples"),
        layer_statistics(model),
    ):
        model(torch.randn(B, 5, 3))


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(3, 2), (3,)), (nn.Conv2d(3, 2, 1), (3, 4, 4))], ids=str
)
def test_inputs_without_samples(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(layer)
    with (
        refused(model, "layer '0'", "without a dimension", "[samples, ...]"),
        layer_statistics(model),
    ):
        model(torch.randn(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite(value: float) -> None:
    model, x = network(), torch.randn(B, 3)
    x[1, 2] = value
    expected = plain(model, lambda: model(x).square().sum())
    with (
        refused(model, "layer '", "not finite", "on_nonfinite='record'"),
        layer_statistics(model) as recorder,
    ):
        model(x).square().sum().backward()
        recorder.statistics()
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, equal_nan=True)
    model.zero_grad()
    with layer_statistics(model, on_nonfinite="record") as recorder:
        model(x).square().sum().backward()
        record = recorder.statistics()
    assert not record.is_finite
    assert torch.isfinite(record.sq_norms).tolist() == [True, False, True, True]
    controller = BatchController(NormTest(eta=0.5), batch_size=B, max_batch_size=64)
    controller.update(record)
    assert (controller.batch_size, controller.nonfinite_steps) == (B, 1)


def test_gradients_left_from_an_earlier_step() -> None:
    model, x = network(), torch.randn(B, 3)
    model(x).sum().backward()
    with refused(model, "'0.weight'", "zero_grad()"), layer_statistics(model) as recorder:
        model(x).sum().backward()
        recorder.statistics()
    model.zero_grad(set_to_none=False)
    with layer_statistics(model) as recorder:
        model(x).sum().backward()
        assert recorder.statistics().batch_size == B
        for to_none in (True, False):
            # The order of many loops: until the backward pass there is time.
            loss = model(x).sum()
            model.zero_grad(set_to_none=to_none)
            loss.backward()
            assert recorder.statistics().batch_size == B
