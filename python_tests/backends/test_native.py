"""The compiled module in a process: instruction sets, threads, the GIL, forks, one OpenMP."""

from __future__ import annotations

import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support.calls import CALLS, make_call
from support.instruction_sets import FOREIGN_ISA, ISAS
from support.subprocesses import output, python

from adadagrad_kernels import _native, use_backend
from adadagrad_kernels.errors import BackendUnavailableError
from adadagrad_kernels.ops import batch_moments

pytestmark = pytest.mark.skipif(_native.C is None, reason=str(_native.missing))

VARIABLE = "ADADAGRAD_KERNELS_ISA"
ACTIVE = """
from adadagrad_kernels import _native, backends
print(_native.instruction_sets()["active"])"""


def test_compiled_in_are_those_of_this_kind_of_processor() -> None:
    assert _native.instruction_sets()["compiled"] == list(ISAS)


def test_every_64_bit_arm_processor_runs_neon() -> None:
    if "neon" not in ISAS:
        pytest.skip("this processor is not a 64-bit ARM one")
    assert _native.instruction_sets()["supported"] == ["scalar", "neon"]


def test_supported_is_what_the_processor_says() -> None:
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("read from Linux's /proc/cpuinfo on x86-64")
    with open("/proc/cpuinfo", encoding="ascii") as lines:
        flags = next(line for line in lines if line.startswith("flags")).split()
    supported = _native.instruction_sets()["supported"]
    assert ("avx2" in supported) == {"avx2", "fma", "f16c"}.issubset(flags)
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"}.issubset(flags):
        assert "avx512" in supported


def test_environment_names_the_instruction_set() -> None:
    variables = {VARIABLE: "scalar", "ADADAGRAD_KERNELS_BACKEND": "reference"}
    code = f"{ACTIVE}; print(backends.select('cpu').__name__)"
    expected = ["scalar", "adadagrad_kernels.backends.reference"]
    assert output(code, **variables).splitlines() == expected


@pytest.mark.parametrize("name", ["avx1024", "Scalar", FOREIGN_ISA])
def test_an_instruction_set_that_is_not_there_is_refused(name: str) -> None:
    message = (
        f"the instruction set '{name}' is not available: compiled in are {', '.join(ISAS)}, and "
        "this machine runs scalar"
    )
    with pytest.raises(BackendUnavailableError, match=message):
        _native.use_isa(name)
    assert _native.instruction_sets()["active"] != name


def test_environment_with_another_name_is_refused_by_every_op_that_would_use_it() -> None:
    code = """
import torch
from adadagrad_kernels import _native, ops, use_backend
for name in ("auto", "cpu", "reference"):
    try:
        with use_backend(name):
            print(ops.batch_moments(torch.eye(2)).sq_norms.tolist())
    except RuntimeError as error:
        print(type(error).__name__, error)
_native.use_isa("scalar")
print(ops.batch_moments(torch.eye(2)).sq_norms.tolist())
"""
    auto, cpu, reference, afterwards = output(code, **{VARIABLE: "sse9"}).splitlines()
    said = f"{VARIABLE}=sse9: the instruction set 'sse9' is not available: compiled in are scalar"
    assert auto.startswith(f"BackendUnavailableError {said}")
    assert cpu.startswith(f"BackendUnavailableError the backend 'cpu' cannot run: {said}")
    assert reference == afterwards == "[1.0, 1.0]"


def test_without_the_compiled_module_the_reference_runs() -> None:
    """As on a machine where the build failed: a reason, and results all the same."""
    code = """
import sys
sys.modules["adadagrad_kernels._C"] = None
import torch
from adadagrad_kernels import backends, ops, use_backend
print(backends.describe()["backends"]["cpu"])
print(backends.select("cpu").__name__, ops.batch_moments(torch.eye(2)).sq_norms.tolist())
with use_backend("cpu"):
    try:
        ops.batch_moments(torch.eye(2))
    except RuntimeError as error:
        print(type(error).__name__)
"""
    child = python(code)
    assert child.returncode == 0, child.stderr
    reason, selected, refused = child.stdout.splitlines()
    assert "could not be imported" in reason
    assert "pip install ." in reason
    assert selected == "adadagrad_kernels.backends.reference [1.0, 1.0]"
    assert refused == "BackendUnavailableError"
    assert child.stderr.count("Warning") == 1, "once per process"
    assert "RuntimeWarning: ops on CPU tensors run without their kernels" in child.stderr
    assert reason in child.stderr


@pytest.mark.parametrize("asked", ["reference", "cpu"])
def test_who_asks_for_a_backend_by_name_is_not_warned(asked: str) -> None:
    code = f"""
import sys, warnings
warnings.simplefilter("error")
sys.modules["adadagrad_kernels._C"] = None
import torch
from adadagrad_kernels import ops, use_backend
use_backend({asked!r})
try:
    print(ops.batch_moments(torch.eye(2)).sq_norms.tolist())
except RuntimeError as error:
    print(type(error).__name__)
"""
    expected = {"reference": "[1.0, 1.0]", "cpu": "BackendUnavailableError"}
    assert output(code) == expected[asked]


def test_one_openmp_runtime_and_the_best_instruction_set() -> None:
    """In a process of its own, since other packages of the tests bring runtimes along."""
    code = """
import torch
from adadagrad_kernels import _native, ops
torch.set_num_threads(2)
torch.randn(300, 300) @ torch.randn(300, 300)
ops.batch_moments(torch.randn(64, 100_000))
runtimes = _native.openmp_runtimes()
print(len(runtimes), _native.C.use_openmp(torch._C.__file__), _native.C.active_isa())
"""
    best = _native.instruction_sets()["supported"][-1]
    assert output(code, **{VARIABLE: ""}) == f"1 True {best}"


WITHOUT_PROC = """
import sys
asked = []
def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc"):
        asked.append(arguments[0])
        raise FileNotFoundError(arguments[0])
sys.addaudithook(hook)
import torch
from adadagrad_kernels import _native, backends, ops
torch.set_num_threads(2)
grads = torch.randn(64, 100_000)
with backends.use_backend("cpu"):
    mean = ops.batch_moments(grads).mean
asked.clear()
backends.describe()
print((mean - grads.mean(0)).abs().max() < 1e-5, _native.openmp_runtimes(), set(asked))
"""


def test_no_file_of_proc_is_needed() -> None:
    """As on macOS, which has none: kernels run, and the OpenMP runtimes alone are not listed."""
    assert output(WITHOUT_PROC) == "tensor(True) [] {'/proc/self/maps'}"


THREADS_OF_A_KERNEL = """
import os
import {first}
import {second}
import torch
torch.set_num_threads(2)
torch.ones(2_000_000).neg_()
before = len(os.listdir("/proc/self/task"))
from adadagrad_kernels import _native, ops
ops.batch_moments(torch.ones(64, 100_000))
print(len(_native.openmp_runtimes()), len(os.listdir("/proc/self/task")) - before)
"""
#: scikit-learn's compiled modules that bring its OpenMP runtime.
OTHER = "sklearn.cluster"


@pytest.mark.parametrize(
    ("preloaded", "first", "second"),
    [
        (False, "torch", OTHER),
        (True, OTHER, "torch"),
        pytest.param(False, OTHER, "torch", marks=pytest.mark.nightly),
        pytest.param(True, "torch", OTHER, marks=pytest.mark.nightly),
    ],
)
def test_the_threads_are_those_of_torch_whoever_else_brings_some(
    first: str, second: str, preloaded: bool
) -> None:
    """Another runtime would start threads of its own, and the two pools fight over the cores."""
    pytest.importorskip("sklearn", reason="another package with an OpenMP runtime of its own")
    if not Path("/proc/self/task").exists():
        pytest.skip("threads are counted in Linux's /proc")
    code = THREADS_OF_A_KERNEL.format(first=first, second=second)
    # Where one is preloaded, torch's own calls are bound to it too.
    preload = {"LD_PRELOAD": _runtime_of(OTHER)} if preloaded else {}
    runtimes, started = output(code, **preload).split()
    assert runtimes == "2", "nothing to confuse"
    assert started == "0"


def _runtime_of(module: str) -> str:
    """The OpenMP runtime that a module maps where torch is not there."""
    code = f"import {module}; print(*(line.split()[-1] for line in open('/proc/self/maps')))"
    found = {path for path in output(code).split() if "/libgomp" in path}
    assert len(found) == 1
    return found.pop()


def test_another_thread_runs_while_a_kernel_does() -> None:
    """With the GIL held, a call would not let the other thread tick at all."""
    grads = torch.ones(256, 200_000)
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.0005)

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        with use_backend("cpu"):
            seen = []
            for _ in range(20):
                before = ticks[0]
                batch_moments(grads)
                seen.append(ticks[0] - before)
                if seen[-1] >= 5:
                    break
    finally:
        done.set()
        ticker.join()
    assert max(seen) >= 5, f"ticks during each call: {seen}"


@pytest.mark.parametrize("name", CALLS)
def test_calls_from_many_threads(name: str) -> None:
    """Kernels have no state that calls could share."""
    with use_backend("cpu"):
        expected = make_call(name, samples=40)()
        with ThreadPoolExecutor(4) as pool:
            calls = [make_call(name, samples=40) for _ in range(24)]
            for results in pool.map(lambda call: call(), calls):
                for ours, theirs in zip(results, expected, strict=True):
                    assert torch.equal(ours, theirs)


def test_a_forked_worker_may_call_kernels() -> None:
    """As in a DataLoader's worker: OpenMP's threads do not survive a fork, so one thread."""
    code = """
import os, signal, torch
from adadagrad_kernels import ops
torch.set_num_threads(2)
grads = torch.randn(64, 100_000)
expected = ops.batch_moments(grads).mean
child = os.fork()
if child == 0:
    signal.alarm(60)
    torch.set_num_threads(1)
    os._exit(0 if torch.equal(ops.batch_moments(grads).mean, expected) else 1)
print(os.waitpid(child, 0)[1])
"""
    assert output(code, PYTHONWARNINGS="ignore") == "0"
