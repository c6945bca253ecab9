"""Every example in a docstring gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest
import torch

import adadagrad_kernels
from adadagrad_kernels.errors import MissingDependencyError


def _modules() -> list[str]:
    prefix = f"{adadagrad_kernels.__name__}."
    found = pkgutil.walk_packages(adadagrad_kernels.__path__, prefix, onerror=lambda name: None)
    names = [module.name for module in found]
    # The first are compiled; the others need a compiler for GPUs; importing the last one runs it.
    left_out = ("._C", ".backends.triton", "__main__")
    return [name for name in names if not any(part in name for part in left_out)]


def _examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", _modules())
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in _examples(module):
        torch.manual_seed(0)
        runner.run(test)
    assert runner.failures == 0


def test_there_are_examples() -> None:
    names = [name for name in _modules() if ".integrations" not in name]
    modules = [importlib.import_module(name) for name in names]
    assert sum(len(_examples(module)) for module in modules) > 40
