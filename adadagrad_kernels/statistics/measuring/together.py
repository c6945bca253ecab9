"""Ranks that can only run a model at the same time, because they gather its parameters.

None of them may ask its model alone. Before each measured call they say to one another whether one
has to ask, and whether one has failed; while one asks, the others run along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.shards import ShardedParameters

Given = TypeVar("Given")


class Together:
    """The ranks that run a model.

    Attributes:
        failed: whether a rank has failed in this step, which all of them know.
    """

    def __init__(self, ranks: Ranks, parameters: ShardedParameters) -> None:
        self.failed = False
        self._ranks = ranks
        self._parameters = parameters

    def meet(self, *, asks: bool = False, failed: bool = False) -> bool:
        """Whether any rank has to ask its model; settles whether one has failed."""
        told = torch.tensor([asks, failed], dtype=torch.int32, device=self._ranks.device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self._ranks.data)
        any_asks, any_failed = told.tolist()
        self.failed |= bool(any_failed)
        return bool(any_asks)

    def ask(self, ask: Callable[[], Given], run_along: Callable[[], Any]) -> Given:
        """Ask the model, and run along until the others have asked theirs.

        Args:
            ask: runs it some times, each after ``run``.
            run_along: runs it once.
        """
        failed = True
        try:
            given = ask()
            failed = False
            return given
        finally:
            while self.meet(failed=failed):
                run_along()

    @contextmanager
    def run(self, *, own: bool = True) -> Iterator[None]:
        """A context in which the model runs, on all ranks.

        Args:
            own: whether it is this rank that asks.
        """
        if own:
            self.meet(asks=True)
        modules = self._parameters.modules
        before = [self._identities(module) for module in modules]
        try:
            yield
        finally:
            # Some keep whole parameters after a forward pass.
            for module, identities in zip(modules, before, strict=True):
                if self._identities(module) != identities:
                    module.reshard()

    def _identities(self, module: Any) -> list[int]:
        """Of what a module holds, without those inside that gather their own."""
        found = [id(parameter) for parameter in module.parameters(recurse=False)]
        for child in module.children():
            if child not in self._parameters.modules:
                found += self._identities(child)
        return found
