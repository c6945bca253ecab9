"""The diagonal D of the metric that an optimizer takes its steps in, from its state."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

#: Entries of the state from which D is made, and the optimizers that keep them.
ENTRIES = {
    "adagrad": ({"sum"}, "torch.optim.Adagrad or adadagrad_kernels.optim.Adagrad"),
    "adam": ({"exp_avg_sq", "step"}, "torch.optim.Adam or AdamW"),
}


class Weights:
    """D of every parameter, as the optimizer's state is when asked.

    Args:
        metric: ``"adagrad"`` or ``"adam"``.
        optimizer: whose state is read.
        parameters: the optimizer's parameters by name; others are taken, but not asked for.
    """

    def __init__(self, metric: str, optimizer: Optimizer, parameters: dict[str, Tensor]) -> None:
        self._metric = metric
        self._optimizer = optimizer
        self._parameters = parameters
        self._groups: dict[int, dict[str, Any]] = {}

    def require(self, names: Collection[str]) -> None:
        """Check, before ``of``, that all of these parameters are known, to the optimizer too.

        Raises:
            ValueError: naming those that are not.
        """
        unknown = sorted(set(names) - set(self._parameters))
        if unknown:
            raise ValueError(
                f"the statistics cover parameters that this test was not given: {unknown}; pass "
                "parameters=model.named_parameters() of the module that is measured"
            )
        self._groups = {
            id(param): group for group in self._optimizer.param_groups for param in group["params"]
        }
        foreign = sorted(name for name in names if id(self._parameters[name]) not in self._groups)
        if foreign:
            raise ValueError(
                f"the optimizer ({type(self._optimizer).__name__}) does not hold the parameters "
                f"{foreign}; pass the one that updates all that is measured, or freeze these with "
                "requires_grad_(False)"
            )

    def of(self, name: str) -> Tensor | None:
        """D in float64, of the parameter's shape; 1 while no parameter has state; else None.

        Raises:
            ValueError: for the state of another kind of optimizer.
        """
        param = self._parameters[name]
        # Not state[param], which would make an empty one.
        state = self._optimizer.state.get(param)
        if not state:
            return (
                None
                if any(self._optimizer.state.values())
                else torch.ones((), dtype=torch.float64, device="cpu")
            )
        self._require_entries(name, param, state)
        return self._inverse_root(state, self._groups[id(param)])

    def _inverse_root(self, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        squares: Tensor
        if self._metric == "adagrad":
            squares = state["sum"]
        else:
            step = state["step"]
            device = step.device if isinstance(step, Tensor) else "cpu"
            decayed = group["betas"][1] ** torch.as_tensor(step, dtype=torch.float64, device=device)
            largest = state.get("max_exp_avg_sq")  # of AMSGrad
            squares = (state["exp_avg_sq"] if largest is None else largest) / (1 - decayed)
        return squares.double().sqrt().add_(group["eps"]).reciprocal_()

    def _require_entries(self, name: str, param: Tensor, state: dict[str, Any]) -> None:
        kind = type(self._optimizer).__name__
        entries, keepers = ENTRIES[self._metric]
        if not entries <= state.keys():
            raise ValueError(
                f"metric={self._metric!r} needs {sorted(entries)} in the state of '{name}', and "
                f"{kind} keeps {sorted(state)}; accepted are {keepers}"
            )
        squares = state["sum" if self._metric == "adagrad" else "exp_avg_sq"]
        if squares.shape != param.shape:
            raise ValueError(
                f"metric={self._metric!r} needs a number for each coordinate of '{name}', "
                f"{tuple(param.shape)}, and {kind} keeps {tuple(squares.shape)}; accepted are "
                f"{keepers}. Where one number scales a whole parameter, use NormTest"
            )
