"""Compiles CUDA sources for every architecture, and takes the machine code apart."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gpu_ladder.places import PACKAGE, build_folder
from gpu_ladder.static import kept, names, ptx_facts
from gpu_ladder.static.facts import Kernel
from gpu_ladder.static.toolchain import Compiler, Toolchain, require, require_compiler

ROOT = PACKAGE.parent
CACHE = build_folder() / "static"
ARCHITECTURES = (80, 90, 100, 120)

#: Products and sums are fused where the source says fmaf, and nowhere else.
FLAGS = ("-O3", "-std=c++20", "--fmad=false", "-Xptxas", "-v")
#: Compilers at a time; each takes a core and some hundred megabytes.
AT_A_TIME = 2

_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


class CompileError(RuntimeError):
    """nvcc refused a source, or made something that the gate cannot read."""


@dataclass(frozen=True)
class Compiled:
    """Where nvcc's results for one source and architecture lie.

    Attributes:
        source: the .cu file.
        architecture: 90 for sm_90.
        cubin: machine code.
        ptx: what it was assembled from.
        log: what nvcc and ptxas printed.
    """

    source: Path
    architecture: int
    cubin: Path
    ptx: Path
    log: Path


def gate(
    sources: Sequence[Path],
    include: Sequence[Path] = (),
    architectures: Iterable[int] = ARCHITECTURES,
    cache: Path = CACHE,
) -> list[Kernel]:
    """Compile ``sources`` for ``architectures``; every kernel of each, in a fixed order.

    Raises:
        ToolMissingError: where a tool is not on this machine.
        CompileError: where nvcc refuses a source, with what it said.
    """
    tools = require()

    def one(job: tuple[Path, int]) -> list[Kernel]:
        source, architecture = job
        compiled = compile_source(source, architecture, include, cache)
        return list(_kernels(tools, compiled, include, cache))

    jobs = [(source, architecture) for source in sorted(sources) for architecture in architectures]
    with ThreadPoolExecutor(max_workers=AT_A_TIME) as pool:
        return [kernel for kernels in pool.map(one, jobs) for kernel in kernels]


def compile_source(
    source: Path,
    architecture: int,
    include: Sequence[Path] = (),
    cache: Path = CACHE,
    flags: Sequence[str] = (),
) -> Compiled:
    """Compile one source for one architecture, or find it in the cache.

    ``flags`` are told to the compiler beside `FLAGS`. The cache goes by content: of the source, of
    what it includes in quotes, of the flags, and by the compiler's version.
    """
    compiler = require_compiler()
    key = hashlib.sha256(repr((compiler.nvcc_version, (*FLAGS, *flags), architecture)).encode())
    for file in sources_of(source, include):
        key.update(f"\0{file.name}\0".encode() + file.read_bytes())
    folder = cache / key.hexdigest()[:24]
    compiled = Compiled(
        source, architecture, folder / "kernel.cubin", folder / "kernel.ptx", folder / "kernel.log"
    )
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with open(f"{folder}.lock", "w") as lock:
            # Two processes that want the same at once: one compiles it and the other waits.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=cache) as scratch:
                    made = Path(scratch) / "made"
                    _compile(compiler, source, architecture, include, made, flags)
                    made.rename(folder)
    return compiled


def sources_of(source: Path, include: Sequence[Path] = ()) -> list[Path]:
    """``source`` and all that it includes in quotes, directly or not, each once."""
    found, waiting = [], [source]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.append(file)
        for name in _INCLUDE.findall(file.read_text(encoding="utf-8")):
            candidates = [(folder / name).resolve() for folder in (file.parent, *include)]
            waiting += [c for c in candidates if c.is_file()][:1]
    return found


def _compile(
    compiler: Compiler,
    source: Path,
    architecture: int,
    include: Sequence[Path],
    made: Path,
    flags: Sequence[str],
) -> None:
    intermediate = made.parent / "intermediate"
    intermediate.mkdir()
    made.mkdir()
    command = [
        str(compiler.nvcc), *compiler.nvcc_flags, *FLAGS, *flags,
        *(f"-I{folder}" for folder in include),
        f"-arch=sm_{architecture}", "-cubin", "--keep", "--keep-dir", str(intermediate),
        "-o", str(made / "kernel.cubin"), str(source),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CompileError(
            f"nvcc refuses {source} for sm_{architecture}:\n{(done.stdout + done.stderr)[-4000:]}"
        )
    (made / "kernel.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    shutil.move(intermediate / f"{source.stem}.ptx", made / "kernel.ptx")


def _kernels(
    tools: Toolchain, compiled: Compiled, include: Sequence[Path], cache: Path
) -> Iterator[Kernel]:
    source, architecture = compiled.source, compiled.architecture
    ptx = ptx_facts.read(compiled.ptx.read_text(encoding="utf-8"))
    if not ptx:  # host code alone
        return
    code = kept.read(tools, compiled.cubin, architecture, cache)
    if set(code) != set(ptx):
        raise CompileError(
            f"{source}, sm_{architecture}: the machine code holds "
            f"{', '.join(sorted(code))}, the PTX {', '.join(sorted(ptx))}; expected are "
            "the same kernels, as nvcc makes them without -rdc"
        )
    text = "\n".join(f.read_text(encoding="utf-8") for f in sources_of(source, include))
    short = names.short_names(tools, ptx, names.template_parameters(text))
    for mangled in sorted(ptx, key=short.__getitem__):
        yield Kernel(
            name=short[mangled],
            group=source.name,
            architecture=architecture,
            threads=ptx[mangled].threads,
            dynamic_shared_bytes=0,
            resources=code[mangled][0],
            instructions=code[mangled][1],
            ptx=ptx[mangled],
        )
