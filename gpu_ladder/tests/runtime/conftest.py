"""The emulated kernels of these tests, in each flavour, and the memory model alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
from model_driver import Model

from gpu_ladder.emulated import Emulated, load
from gpu_ladder.host_build import build


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


@pytest.fixture(scope="session")
def model_library() -> ctypes.CDLL:
    return ctypes.CDLL(str(build("plain", "ladder_memory_model")))


@pytest.fixture
def model(model_library: ctypes.CDLL) -> Iterator[Model]:
    """In the first block of a grid."""
    model = Model(model_library)
    model.start()
    yield model
    model.delete()
