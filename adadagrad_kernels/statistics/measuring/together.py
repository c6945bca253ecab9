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
        self.failed: bool = False
        self._ranks = ranks
        self._parameters = parameters
        self._left: list[tuple[dict[str, Any], dict[str, Any]]] = []

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
        before = [_identities(self._places(module)) for module in modules]
        try:
            yield
        finally:
            # Some keep whole parameters after a forward pass. One that it has broken off in goes on
            # as it is: no public call of torch before 2.14 ends its pass.
            self._left = []
            for module, identities in zip(modules, before, strict=True):
                if _identities(self._places(module)) != identities:
                    module.reshard()
                if _identities(self._places(module)) != identities:
                    self._left += [(place, dict(place)) for place in self._places(module)]

    def put_back(self) -> None:
        """Have modules hold what they held after the run, where that was not undone."""
        for place, held in self._left:
            place.update(held)
        self._left = []

    def _places(self, module: Any) -> list[dict[str, Any]]:
        """Where a module holds its parameters, without those inside that gather their own."""
        found = [module._parameters]
        for child in module.children():
            if child not in self._parameters.modules:
                found += self._places(child)
        return found


def _identities(places: list[dict[str, Any]]) -> list[int]:
    return [id(parameter) for place in places for parameter in place.values()]
