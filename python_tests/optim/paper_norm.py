"""AdaGrad-Norm by the paper's formulas in float64, written apart from the package."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from trajectories import assert_same

from adadagrad_kernels.optim import AdagradNorm


class PaperNorm:
    """Ward, Wu, Bottou 2019, one number v over all groups, or one for each row, in float64."""

    def __init__(self, groups: list[dict[str, Any]], initial: float) -> None:
        self.groups = [
            {
                "lr": 1.0,
                "weight_decay": 0.0,
                "eps": 1e-10,
                "row_wise": False,
                "maximize": False,
                **group,
                "params": [p.detach().double().clone() for p in group["params"]],
            }
            for group in groups
        ]
        self.v = initial
        self.rows = [
            [
                torch.full((p.shape[0] if p.dim() else 1,), initial, dtype=torch.float64)
                for p in g["params"]
            ]
            for g in self.groups
        ]

    def step(self, grads: list[list[Tensor | None]]) -> None:
        directions = [
            [
                None
                if grad is None
                else (-1 if group["maximize"] else 1) * grad.double()
                + group["weight_decay"] * param
                for param, grad in zip(group["params"], given, strict=True)
            ]
            for group, given in zip(self.groups, grads, strict=True)
        ]
        for group, row in zip(self.groups, directions, strict=True):
            if not group["row_wise"]:
                self.v += sum(float((d**2).sum()) for d in row if d is not None)
        for group, row, sums in zip(self.groups, directions, self.rows, strict=True):
            for param, d, total in zip(group["params"], row, sums, strict=True):
                if d is None:
                    continue
                if not group["row_wise"]:
                    param -= group["lr"] * d / (self.v**0.5 + group["eps"])
                    continue
                for r in range(len(total)):
                    piece = d[r] if d.dim() else d
                    total[r] += (piece**2).sum()
                    target = param[r] if param.dim() else param
                    target -= group["lr"] * piece / (total[r] ** 0.5 + group["eps"])


def gradients_of(optimizer: Any) -> list[list[Tensor | None]]:
    return [[p.grad for p in group["params"]] for group in optimizer.param_groups]


def params_of(optimizer: Any) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def accumulator_of(optimizer: AdagradNorm) -> float:
    """The accumulator, by its definition: the sum of the shares."""
    return float(
        sum(
            optimizer.state[param]["sum"]
            for group in optimizer.param_groups
            if not group["row_wise"]
            for param in group["params"]
        )
    )


def compare(optimizer: AdagradNorm, paper: PaperNorm) -> None:
    """Within the rounding of the parameter's dtype, of values and updates of order one."""
    epsilon = max(torch.finfo(param.dtype).eps for param in params_of(optimizer))
    expected = [param for group in paper.groups for param in group["params"]]
    actual = [param.detach().double() for param in params_of(optimizer)]
    assert_same(actual, expected, rtol=4 * epsilon, atol=8 * epsilon)
    if not all(group["row_wise"] for group in optimizer.param_groups):
        assert accumulator_of(optimizer) == pytest.approx(paper.v, rel=4 * epsilon)
    for group, sums in zip(optimizer.param_groups, paper.rows, strict=True):
        if group["row_wise"]:
            states = [optimizer.state[param]["sum"] for param in group["params"]]
            assert_same(states, sums, rtol=4 * epsilon, atol=0, what="rows")
