"""Small steps, on one thread, and the data that they are taken on."""

from __future__ import annotations

import pytest
from support.one_thread import one_thread_for_the_module  # noqa: F401 - a fixture of every test here

from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.data_sets import load_data


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("digits", None)
