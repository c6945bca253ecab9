"""The emulated kernels of these tests, in each flavour."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpu_ladder.emulated import Emulated, load


def fresh(flavour: str) -> Iterator[Emulated]:
    emulated = load(flavour, "ladder_kernels")
    emulated.reset()
    yield emulated
    emulated.reset()


@pytest.fixture
def plain() -> Iterator[Emulated]:
    yield from fresh("plain")


@pytest.fixture
def checked() -> Iterator[Emulated]:
    yield from fresh("checked")


@pytest.fixture(params=["plain", "checked"])
def emulated(request: pytest.FixtureRequest) -> Iterator[Emulated]:
    yield from fresh(request.param)
