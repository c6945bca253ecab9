"""Which backend runs an op, and that every op is everywhere it should be."""

from __future__ import annotations

import _thread
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.calls import CALLS, op_under_test, runs
from support.subprocesses import output

from adadagrad_kernels import backends, ops, use_backend
from adadagrad_kernels.backends import BACKENDS, cpu, reference
from adadagrad_kernels.errors import BackendUnavailableError

OPS = [name for name in ops.__all__ if name[0].islower()]
ROOT = Path(__file__).parents[2]
VARIABLE = "ADADAGRAD_KERNELS_BACKEND"


@pytest.mark.parametrize("name", OPS)
def test_every_op_is_tested_benchmarked_and_registered(name: str) -> None:
    plain = name.rstrip("_")
    assert (ROOT / "python_tests" / "ops" / f"test_{plain}.py").is_file()
    assert name in CALLS, "the tests that all ops share leave it out"
    assert op_under_test(f"test_{plain}", "None") == name, "its tests leave it out on GPUs"
    assert hasattr(torch.ops.adadagrad_kernels, name)
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("no benchmarks here: these tests run outside the source tree")
    assert (ROOT / "benchmarks" / "ops" / f"bench_{plain}.py").is_file()


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_every_op_runs_on_the_cpu(backend: str, name: str) -> None:
    """The backends of GPUs may lack one."""
    assert runs(BACKENDS[backend], name)


def test_public_functions_are_documented_with_formula_errors_and_example() -> None:
    for name in OPS:
        text = getattr(ops, name).__doc__
        for part in (".. math::", "Args:", "Raises:", "Example:"):
            assert part in text, f"{name} lacks {part}"


def test_auto_prefers_the_kernels_and_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_best", {})
    monkeypatch.setattr(cpu, "unavailable", lambda: None)
    with use_backend("auto"):
        assert backends.select("cpu") is cpu
        assert backends.select("cuda") is reference
        monkeypatch.setattr(cpu, "unavailable", lambda: "it is not there")
        monkeypatch.setattr(backends, "_best", {})
        monkeypatch.setattr(backends, "_told_of_fallback", False)
        with pytest.warns(RuntimeWarning, match="run without their kernels.*: it is not there"):
            assert backends.select("cpu") is reference
        monkeypatch.setattr(backends, "_best", {})
        assert backends.select("cpu") is reference  # a second warning would be an error


def test_a_backend_asked_for_by_name_runs_or_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "unavailable", lambda: "the compiled module is missing")
    grads = torch.ones(2, 3)
    with (
        use_backend("cpu"),
        pytest.raises(
            BackendUnavailableError,
            match="'cpu' cannot run: the compiled module is missing; accepted are auto, reference",
        ),
    ):
        ops.batch_moments(grads)
    monkeypatch.setattr(cpu, "unavailable", lambda: None)
    with use_backend("cpu"), pytest.raises(BackendUnavailableError, match="these are on cuda"):
        backends.select("cuda")


def test_use_backend_refuses_other_names_and_restores() -> None:
    before = backends.select("cpu")
    with pytest.raises(ValueError, match=r"names the backend 'gpu'; accepted are auto, reference"):
        use_backend("gpu")
    with use_backend("reference"):
        with use_backend("auto"):
            assert backends.select("cpu") is before
        assert backends.select("cpu") is reference
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert backends.select("cpu") is before


@pytest.fixture
def restored() -> Iterator[None]:
    """Puts back what a test asks for with a call alone."""
    with use_backend("auto"):
        yield


@pytest.mark.usefixtures("restored")
def test_use_backend_as_a_call_holds_until_the_next_one() -> None:
    use_backend("reference")
    assert backends.select("cpu") is reference
    with pytest.raises(ValueError, match="'bogus'; accepted are auto, reference, cpu, cuda, tri"):
        use_backend("bogus")
    assert backends.select("cpu") is reference
    with use_backend("cpu"):
        assert backends.select("cpu") is cpu
    assert backends.select("cpu") is reference
    use_backend("cpu")
    assert backends.select("cpu") is cpu


@pytest.mark.usefixtures("restored")
def test_one_context_may_be_entered_again() -> None:
    context = use_backend("reference")
    assert backends.select("cpu") is reference
    with context:
        with context:
            assert backends.select("cpu") is reference
        assert backends.select("cpu") is reference
    assert backends.select("cpu") is cpu
    with context:
        assert backends.select("cpu") is reference
    assert backends.select("cpu") is cpu


@pytest.mark.usefixtures("restored")
def test_use_backend_as_a_decorator_holds_within_the_function_alone() -> None:
    @use_backend("reference")
    def selected(device: str) -> ModuleType:
        return backends.select(device)

    assert backends.select("cpu") is cpu
    assert selected("cpu") is reference
    assert backends.select("cpu") is cpu


@pytest.mark.usefixtures("restored")
def test_each_thread_asks_for_itself() -> None:
    """Two threads in contexts that overlap in time, neither within the other."""
    inside, over = threading.Event(), threading.Event()
    seen: dict[str, object] = {}

    def other() -> None:
        seen["before"] = backends.select("cpu")
        with use_backend("reference"):
            inside.set()
            assert over.wait(60)
            seen["inside"] = backends.select("cpu")
        seen["after"] = backends.select("cpu")

    thread = threading.Thread(target=other)
    with use_backend("cpu"):
        thread.start()
        assert inside.wait(60)
        assert backends.select("cpu") is cpu
    assert backends.select("cpu") is cpu
    use_backend("reference")
    over.set()
    thread.join()
    assert seen == {"before": cpu, "inside": reference, "after": cpu}


@pytest.mark.usefixtures("restored")
def test_threads_that_python_did_not_start_follow_the_main_thread() -> None:
    """As those of autograd for GPUs, in which the gradients of a layer are measured."""
    seen: queue.Queue[ModuleType] = queue.Queue()
    for name, expected in (("reference", reference), ("cpu", cpu)):
        use_backend(name)
        _thread.start_new_thread(lambda: seen.put(backends.select("cpu")), ())
        assert seen.get(timeout=60) is expected


def test_every_record_is_of_one_module_and_auto_is_never_undecided() -> None:
    for name, backend in BACKENDS.items():
        assert (backend.name, backend.module.__name__.rpartition(".")[2]) == (name, name)
    for device in ("cpu", "cuda"):
        able = [each for each in BACKENDS.values() if each.reads(torch.device(device))]
        assert len({each.priority for each in able}) == len(able) > 1
        assert min(able, key=lambda each: each.priority).module is reference


def test_describe_says_what_runs_and_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "unavailable", lambda: "no compiler")
    description = backends.describe()
    assert list(description["backends"]) == list(BACKENDS)
    assert description["backends"]["reference"] is None
    assert description["backends"]["cpu"] == "no compiler"
    assert description["threads"] == torch.get_num_threads()
    assert set(description["isa"]) == {"compiled", "supported", "active"}


def test_environment_with_another_name_is_refused_where_an_op_runs() -> None:
    code = """
import torch
from adadagrad_kernels import ops, use_backend
for asked in (None, "reference"):
    if asked:
        use_backend(asked)
    try:
        print(ops.batch_moments(torch.eye(2)).sq_norms.tolist())
    except ValueError as error:
        print(error)
"""
    said = (
        f"{VARIABLE} names the backend 'fastest'; accepted are auto, reference, cpu, cuda, triton"
    )
    assert output(code, **{VARIABLE: "fastest"}).splitlines() == [said, "[1.0, 1.0]"]
