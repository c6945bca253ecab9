"""Two optimizers fed the same gradients, compared after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

SHAPES = ((5,), (), (3, 4), (0,), (1,), (2, 3, 4, 5))

Optimizer = torch.optim.Optimizer


def parameters(
    shapes: Iterable[Sequence[int]] = SHAPES, dtype: torch.dtype = torch.float32, size: float = 1.0
) -> list[Parameter]:
    return [Parameter((torch.randn(tuple(shape)) * size).to(dtype)) for shape in shapes]


def copies(params: Iterable[Tensor]) -> list[Parameter]:
    return [Parameter(param.detach().clone()) for param in params]


def set_gradients(*models: Sequence[Parameter], size: float = 1.0) -> None:
    """The same new gradients, of the parameter's layout, for every list of parameters.

    No element is near zero, whose square in float16 would be a denormal and hardly a number.
    """
    for row in zip(*models, strict=True):
        noise = torch.randn_like(row[0], requires_grad=False)
        grad = (noise + noise.sgn()) * size
        for param in row:
            param.grad = grad.clone()


def assert_same(
    ours: Iterable[Tensor], theirs: Iterable[Tensor], rtol: float, atol: float, what: str = "param"
) -> None:
    for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(
            our, their, rtol=rtol, atol=atol, msg=lambda text, i=index: f"{what} {i}: {text}"
        )


def assert_same_state(ours: Optimizer, theirs: Optimizer, rtol: float) -> None:
    """Equal step counters and accumulators, parameter by parameter, of one dtype and layout."""
    our_states, their_states = (list(optimizer.state.values()) for optimizer in (ours, theirs))
    assert len(our_states) == len(their_states)
    for our, their in zip(our_states, their_states, strict=True):
        assert our.keys() == their.keys()
        assert our["step"].dtype == their["step"].dtype
        assert our["step"].shape == ()
        assert our["step"].item() == their["step"].item()
        assert our["sum"].stride() == their["sum"].stride()
        torch.testing.assert_close(our["sum"], their["sum"], rtol=rtol, atol=0)


def follow(
    ours: Optimizer,
    theirs: Optimizer,
    steps: int,
    gradients: Callable[..., None] = set_gradients,
    tolerance: float = 4.0,
) -> None:
    """Steps with the same gradients; the distance allowed is in epsilons of the dtype.

    The absolute part is that of the updates made so far, each of at most a learning rate; the
    relative one that of the value, which torch rounds in every operation and the op once.
    """
    models = [[p for g in o.param_groups for p in g["params"]] for o in (ours, theirs)]
    rate = max(float(group["lr"]) for group in ours.param_groups)
    epsilon = max(torch.finfo(param.dtype).eps for param in models[0])
    for step in range(1, steps + 1):
        gradients(*models)
        ours.step()
        theirs.step()
        assert_same(*models, rtol=tolerance * epsilon, atol=tolerance * epsilon * rate * step)
        assert_same_state(ours, theirs, rtol=tolerance * epsilon)
