"""Which backend runs an op, and that every op is everywhere it should be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from calls import CALLS, op_under_test, runs
from subprocesses import python

from adadagrad_kernels import backends, ops, use_backend
from adadagrad_kernels.backends import BACKENDS, cpu, reference
from adadagrad_kernels.errors import BackendUnavailableError

OPS = [name for name in ops.__all__ if name[0].islower()]
ROOT = Path(__file__).parent.parent
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
    assert (ROOT / "benchmarks" / f"bench_{plain}.py").is_file()


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
        assert backends.select("cpu") is reference


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
        use_backend("gpu").__enter__()
    with use_backend("reference"):
        with use_backend("auto"):
            assert backends.select("cpu") is before
        assert backends.select("cpu") is reference
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert backends.select("cpu") is before


def test_describe_says_what_runs_and_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "unavailable", lambda: "no compiler")
    description = backends.describe()
    assert list(description["backends"]) == list(BACKENDS)
    assert description["backends"]["reference"] is None
    assert description["backends"]["cpu"] == "no compiler"
    assert description["threads"] == torch.get_num_threads()
    assert set(description["isa"]) == {"compiled", "supported", "active"}


def test_environment_with_another_name_is_refused() -> None:
    child = python("import adadagrad_kernels", **{VARIABLE: "fastest"})
    assert child.returncode != 0
    expected = f"{VARIABLE} names the backend 'fastest'; accepted are auto, reference, cpu"
    assert f"ValueError: {expected}" in child.stderr
