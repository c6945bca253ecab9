"""What the rungs say of a kernel of CUDA with a fault in it, or with none."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from matrix_faults import Fault, Kernel

from gpu_ladder import emulated
from gpu_ladder.static import checks, cuda_gate, facts
from gpu_ladder.static.budgets import CUDA

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

FLAGS = {
    "plain": ["-O1"],
    "checked": [
        *("-O1", "-fno-tree-sra", "-fsanitize=thread"),
        "--param=tsan-instrument-func-entry-exit=0",
    ],
    "sanitized": [
        *("-O1", "-fsanitize=address,undefined"),
        *("-fno-sanitize=vptr", "-fno-sanitize-recover=all"),
    ],
}
COMMON = ["-std=c++20", "-g", "-fPIC", "-ffp-contract=off", "-fno-gnu-unique", "-w"]
#: What the host's processor does not let pass: a vector at an odd address, another's memory.
_CRASHES = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT)
#: What begins the host's part of a file, where kernels are launched in every type.
_LAUNCHES = re.compile(r"\n// [^\n]*launches[^\n]*\nnamespace \{\n.*", re.DOTALL)


class PlantedCuda:
    """A kernel's subject over the sources with one fault, or with none, in ``folder``."""

    def __init__(self, kernel: Kernel, fault: Fault | None, folder: Path) -> None:
        self._subject = HERE / "subjects" / f"{kernel.runs}.cu"
        self._sources = folder / "csrc"
        shutil.copytree(ROOT / "csrc", self._sources)
        if fault is not None:
            fault.plant(self._sources / "cuda")
        for file in (self._sources / "cuda").glob("*.cu"):
            text = file.read_text(encoding="utf-8")
            device = _LAUNCHES.sub("\n}  // namespace adak::cuda\n", text)
            file.write_text(device, encoding="utf-8")

    def said(self, rung: str) -> set[str]:
        """What a rung finds."""
        name = self._subject.stem
        if rung == "machine code":
            kernels = cuda_gate.gate([self._subject], [self._sources], [90])
            return over_budget(kernels, CUDA)
        if rung == "sanitizers":
            return _sanitizers(name, self._library("sanitized"))
        if rung == "PTX":
            ptx = cuda_gate.compile_source(self._subject, 90, [self._sources]).ptx
            return _found(name, self._library("plain"), ptx)
        return _found(name, self._library("plain" if rung == "source" else "checked"))

    @functools.cache  # noqa: B019, of objects that live as long as a test
    def _library(self, flavour: str) -> Path:
        """The subject on the host model, with the planted kernels."""
        folder = emulated.build(flavour, f"gpu_ladder_runtime_{flavour}").parent
        runtime = folder / "CMakeFiles" / f"gpu_ladder_runtime_{flavour}.dir"
        compiler = os.environ.get("CXX", "g++")
        kernel, library = self._sources / f"{flavour}.o", self._sources / f"{flavour}.so"
        model = ROOT / "gpu_ladder/runtime"
        includes = [f"-I{path}" for path in (self._sources, model, model / "include")]
        source = ["-x", "c++", "-c", str(self._subject), "-o", str(kernel)]
        command = [compiler, *COMMON, *FLAGS[flavour], *includes, *source]
        subprocess.run(command, check=True)
        sanitizers = FLAGS["sanitized"] if flavour == "sanitized" else []
        # The runtime first: of inline functions in both, the copy that is not instrumented.
        objects = [*map(str, sorted(runtime.rglob("*.o"))), str(kernel)]
        link = ["-shared", "-Wl,-Bsymbolic", *sanitizers, *objects, "-ldl", "-o", str(library)]
        subprocess.run([compiler, *link], check=True)
        return library


def over_budget(kernels: Iterable[facts.Kernel], budgets: Iterable[checks.Budget]) -> set[str]:
    """What the build gate says of machine code, in words of the page."""
    found = set()
    for kernel in kernels:
        budget = checks.budget_of(kernel, budgets)
        assert budget is not None, f"{kernel.name} has no budget"
        if kernel.spills:
            found.add("spills")
        if kernel.ptx.float_atomics:
            found.add("float atomics")
        code = kernel.instructions
        if code.global_loads.get(checks.VECTOR, 0) < budget.vector_loads:
            found.add("narrow loads")
        if code.global_stores.get(checks.VECTOR, 0) < budget.vector_stores:
            found.add("narrow stores")
    return found


def _python(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "run_subject.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)  # type: ignore[call-overload, no-any-return]


def _found(*arguments: object) -> set[str]:
    done = _python(*arguments)
    if done.returncode in _CRASHES:
        return {"crash"}
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def _sanitizers(subject: str, library: Path) -> set[str]:
    done = _python(subject, library, env=emulated.sanitizer_environment())
    pattern = r"AddressSanitizer: ([\w-]+)|runtime error: .*(misaligned)"
    report = re.search(pattern, done.stderr)
    if report is None:
        assert done.returncode == 0, done.stderr
        return set(json.loads(done.stdout))
    return {report[1] or report[2]}
