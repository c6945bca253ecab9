"""Options and fixtures that every test folder shares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data-dir", default=None, help="folder with real data (mnist/...)")


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path:
    """The folder with real data; skips where none was given."""
    given = request.config.getoption("--data-dir")
    if not given:
        pytest.skip("no real data: run with --data-dir DIR (make test DATA_DIR=DIR)")
    folder = Path(given)
    if not folder.is_dir():
        pytest.fail(f"--data-dir {folder} is not a folder")
    return folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
