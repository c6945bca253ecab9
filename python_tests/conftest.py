"""Options and fixtures that every test folder shares."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Workers of pytest-xdist share the cores: a thread that waits for others must not spin on one.
# OpenMP reads this when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

# For gpu_ladder; at the end, so that the package is the installed one and not the sources.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from support.calls import op_under_test, runs, tensor_by_tensor
from support.gpu_executions import (
    DEVICES,
    EXECUTIONS,
    ON_CPU,
    READ_NO_LISTS,
    is_left_out,
    is_of_the_night,
    running,
)
from support.instruction_sets import ISAS
from support.programs import Programs

from adadagrad_kernels import _native
from adadagrad_kernels.backends import BACKENDS, use_backend


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data-dir", default=None, help="folder with real data (mnist/...)")
    parser.addoption(
        "--write-traffic", action="store_true", help="keep the bytes that GPU kernels move"
    )
    parser.addoption(
        "--gpu-cases",
        choices=("some", "all"),
        default="some",
        help="all: the GPU kernels in every way, also in those that gpu_executions leaves out",
    )
    parser.addoption(
        "--ways",
        metavar="WAY,...",
        help="of tests that run an op in several ways, those whose way begins so, such as "
        "cpu-avx512 or cpu,cuda-sanitized; tests without a way run too",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what torch warns of in its own code with older releases, and with one Python."""
    if sys.version_info[:3] == (3, 13, 0):  # torch's compiler avoids a fault of this release
        config.addinivalue_line("filterwarnings", "ignore:Guards may run slower:RuntimeWarning")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 9):
        for message in (
            "The epoch parameter in",  # SequentialLR, of the steps of its own schedulers
            "DTensor random operators may not have",
            "Skipping serialization of skipfiles_inline_module_allowlist",  # inductor
        ):
            config.addinivalue_line("filterwarnings", rf"ignore:{message}:UserWarning:torch\..*")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the ways to run an op that are not for this run; mark what reads bfloat16."""
    for item in items:
        if torch.bfloat16 in _types(item):
            item.add_marker(pytest.mark.bfloat16)
    left_out = {
        item
        for item in items
        if (_way(item) and not _is_wanted(_way(item), item.originalname, item.path, config))
        or _lacks_the_op(item)
        or _reads_no_whole_lists(item)
        or _is_left_to_the_night(item, config)
    }
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in every way that is for this run: the others are half of all and take seconds."""
    if "backend" not in metafunc.fixturenames or _is_given(metafunc, "backend"):
        return
    path, test = metafunc.definition.path, metafunc.function.__name__
    op = op_under_test(path.stem, "None")
    wanted = [
        way
        for way in WAYS
        if _is_wanted(way, test, path, metafunc.config) and (op is None or _has(way, op))
    ]
    # Without any there would be a test that is skipped: all are made, and then left out.
    ways = [
        pytest.param(w, marks=[pytest.mark.gpu] if w in DEVICES else []) for w in wanted or WAYS
    ]
    metafunc.parametrize("backend", ways, indirect=True)


def _is_given(metafunc: pytest.Metafunc, name: str) -> bool:
    """Whether the test says itself what the argument is."""
    marks = metafunc.definition.iter_markers("parametrize")
    return any(name in mark.args[0] for mark in marks)


def _is_wanted(way: object, test: str, path: Path, config: pytest.Config) -> bool:
    nightly = config.getoption("--gpu-cases") == "all"
    begins = tuple((config.getoption("--ways") or "").split(","))
    return str(way).startswith(begins) and not is_left_out(way, path.name, test, nightly)


def _way(item: pytest.Item) -> object:
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return None
    if "isa" in callspec.params:
        return f"cpu-{callspec.params['isa']}"
    return callspec.params.get("backend")


def _parameters(item: pytest.Item) -> list[object]:
    callspec = getattr(item, "callspec", None)
    return list(callspec.params.values()) if callspec else []


def _lacks_the_op(item: pytest.Item) -> bool:
    """Whether the item's backend, one of a GPU's, does not run the op that it tests."""
    callspec = getattr(item, "callspec", None)
    op = op_under_test(item.path.stem, str(callspec and callspec.params.get("name")))
    return op is not None and not _has(str(_way(item)), op)


def _has(way: str, op: str) -> bool:
    """Whether an op runs in this way; where it is not one of a GPU, every op does."""
    backend = way.partition("-")[0]
    return backend not in ("cuda", "triton") or runs(BACKENDS[backend], op)


def _reads_no_whole_lists(item: pytest.Item) -> bool:
    """Whether the item leaves lists to the checks, where its way to run reads none as a whole.

    That is what the other item of the pair does then.
    """
    given = _parameters(item)
    by_tensor = tensor_by_tensor in given or any(str(v).endswith("by tensor") for v in given)
    return by_tensor and str(_way(item)).startswith(READ_NO_LISTS)


def _is_left_to_the_night(item: pytest.Item, config: pytest.Config) -> bool:
    by_day = config.getoption("--gpu-cases") != "all"
    return by_day and is_of_the_night(_way(item), item.path.name, _types(item))


def _types(item: pytest.Item) -> list[torch.dtype]:
    return [value for value in _parameters(item) if isinstance(value, torch.dtype)]


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


@pytest.fixture(scope="session")
def programs() -> Iterator[Programs]:
    """A process that runs programs without importing torch for each."""
    with Programs() as process:
        yield process


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tensors too small to share: threads that wait for each other would take all the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _flags_that_may_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own checkers freeze its flags for the process, and Opacus sets one.

    The flag is a global of the module that an object in ``sys.modules`` stands for: setting an
    attribute of that object would not reach it.
    """
    behind = torch.backends.flags_frozen.__globals__
    monkeypatch.setitem(behind, "__allow_nonbracketed_mutation_flag", True)


#: Element types of every op.
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of the compiled kernels; skips where this machine lacks it."""
    name: str = request.param
    with _running("cpu", name):
        yield name


#: Every way to run an op: every backend, the compiled one with every instruction set.
WAYS = ("reference", *(f"cpu-{isa}" for isa in ISAS), *ON_CPU, *DEVICES)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of ``WAYS`` that is for this run, that this machine has, and takes the test's dtype."""
    if request.param in EXECUTIONS:
        if torch.float64 in request.node.callspec.params.values():
            pytest.skip("the GPU kernels take no float64")
        with running(request.param):
            yield request.param
        return
    name, _, isa = request.param.partition("-")
    with _running(name, isa):
        yield request.param


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each element type of the ops."""
    given: torch.dtype = request.param
    return given


@contextlib.contextmanager
def _running(backend: str, isa: str) -> Iterator[None]:
    reason = BACKENDS[backend].unavailable()
    if reason is not None:
        pytest.skip(f"backend {backend}: {reason}")
    if not isa:
        with use_backend(backend):
            yield
        return
    sets = _native.instruction_sets()
    if isa not in sets["supported"]:
        pytest.skip(f"this machine runs {', '.join(sets['supported'])}, not {isa}")
    _native.use_isa(isa)
    try:
        with use_backend(backend):
            yield
    finally:
        _native.use_isa(sets["active"])
