"""Steps captured in a CUDA graph and replayed with other gradients, rates and scales."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from trajectories import assert_same, copies

from adadagrad_kernels.backends import BACKENDS, use_backend
from adadagrad_kernels.optim import Adagrad, AdagradNorm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

SHAPES = ((5,), (), (3, 4), (1000,), (1,), (2, 3, 4, 5))
SETTINGS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (Adagrad, {}),
    (Adagrad, {"lr_decay": 0.3, "weight_decay": 0.1}),
    (AdagradNorm, {"weight_decay": 0.1}),
    (AdagradNorm, {"row_wise": True, "maximize": True}),
)
EVERY = pytest.mark.parametrize(("optimizer_class", "kwargs"), SETTINGS, ids=str)


@pytest.fixture(params=["cuda", "triton", "reference"], autouse=True)
def _backend(request: pytest.FixtureRequest) -> Any:
    reason = BACKENDS[request.param].unavailable()
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    with use_backend(request.param):
        yield


class Twins:
    """An optimizer whose step is captured, and one that takes ordinary steps."""

    def __init__(self, optimizer_class: Any, scaled: bool, **kwargs: Any) -> None:
        captured = [Parameter(torch.randn(shape, device="cuda")) for shape in SHAPES]
        self.models = [captured, copies(captured)]
        self.rate = torch.tensor(0.1, dtype=torch.float64, device="cuda")
        self.scale, self.found_inf = torch.ones(2, device="cuda").unbind()
        rates = (self.rate, 0.1)
        self.optimizers = [
            optimizer_class(
                [{"params": model[:4]}, {"params": model[4:], "eps": 1e-3}],
                lr=rate,
                fused=True,
                capturable=capturable,
                **kwargs,
            )
            for model, rate, capturable in zip(self.models, rates, (True, False), strict=True)
        ]
        if scaled:
            self.optimizers[0].grad_scale = self.scale
            self.optimizers[0].found_inf = self.found_inf
        self.scaled = scaled
        for model in self.models:
            for param in model:
                param.grad = torch.zeros_like(param)

    def change(self, step: int, overflow: bool) -> None:
        """New gradients, rates and scales, in place where a graph reads them."""
        self.rate.fill_(0.1 / step)
        self.scale.fill_(2.0**step if self.scaled else 1.0)
        self.found_inf.fill_(float(overflow))
        for one, other in zip(*self.models, strict=True):
            grad = torch.randn_like(one, requires_grad=False)
            one.grad.copy_(grad * (2.0**step if self.scaled else 1.0))
            other.grad.copy_(grad)
        for group in self.optimizers[1].param_groups:
            group["lr"] = 0.1 / step

    def compare(self) -> None:
        assert_same(*self.models, rtol=1e-5, atol=1e-6)
        for our, their in zip(*(o.state.values() for o in self.optimizers), strict=True):
            assert torch.equal(our["step"], their["step"])
            torch.testing.assert_close(our["sum"], their["sum"], rtol=1e-5, atol=0)
        norms = [optimizer.grad_sq_norm for optimizer in self.optimizers]
        torch.testing.assert_close(*norms, rtol=1e-5, atol=0)


def _capture(optimizer: Any) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph


@pytest.mark.parametrize("scaled", [False, True])
@EVERY
def test_replays_are_ordinary_steps(
    optimizer_class: Any, kwargs: dict[str, Any], scaled: bool
) -> None:
    twins = Twins(optimizer_class, scaled, **kwargs)
    twins.change(1, overflow=False)
    for optimizer in twins.optimizers:  # the first step compiles kernels, where they are Triton's
        optimizer.step()
    graph = _capture(twins.optimizers[0])
    twins.compare()  # capturing does not step
    for step in range(2, 7):
        overflow = scaled and step in (2, 5)
        twins.change(step, overflow)
        graph.replay()
        if not overflow:
            twins.optimizers[1].step()
        twins.compare()
    twins.change(7, overflow=False)
    for optimizer in twins.optimizers:  # and ordinary steps go on from there
        optimizer.step()
    twins.compare()


# Torch says so once in a process, to whoever sets the mode first.
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@EVERY
def test_nothing_waits_for_the_device(
    optimizer_class: Any, kwargs: dict[str, Any], scaled: bool, capturable: bool
) -> None:
    params = [Parameter(torch.randn(shape, device="cuda")) for shape in SHAPES]
    optimizer = optimizer_class(params, lr=0.1, fused=True, capturable=capturable, **kwargs)
    rate = torch.tensor(0.1, device="cuda")
    if scaled:
        optimizer.grad_scale, optimizer.found_inf = torch.tensor([2.0, 0.0], device="cuda").unbind()
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        params[1].grad = None
        optimizer.step()
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [int(state["step"]) for state in optimizer.state.values()] == [4, 2, 4, 4, 4, 4]


def test_a_whole_training_step_is_captured() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    model.cuda()
    twin = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    twin.cuda().load_state_dict(model.state_dict())
    ours = Adagrad(model.parameters(), lr=0.1, capturable=True)
    theirs = torch.optim.Adagrad(twin.parameters(), lr=0.1, foreach=False)
    data = torch.randn(32, 8, device="cuda")

    def step(network: torch.nn.Module, optimizer: Any, inputs: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        network(inputs).square().mean().backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(model, ours, data)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    ours.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step(model, ours, data)
    for _ in range(3):
        step(twin, theirs, data)
    for _ in range(5):
        data.copy_(torch.randn_like(data))
        graph.replay()
        step(twin, theirs, data)
    assert_same(model.parameters(), twin.parameters(), rtol=1e-4, atol=1e-5)


def test_capture_of_an_ordinary_optimizer_is_refused() -> None:
    weight = Parameter(torch.ones(3, device="cuda"))
    weight.grad = torch.ones_like(weight)
    optimizer = Adagrad([weight])
    optimizer.step()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        weight.grad.add_(1)  # an empty graph is warned of
        with pytest.raises(RuntimeError, match="capturable is False"):
            optimizer.step()
