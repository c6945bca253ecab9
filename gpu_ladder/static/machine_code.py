"""Reads a cubin: the resources of its kernels, and what instructions they are made of."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpu_ladder.static.facts import Instructions, Resources
from gpu_ladder.static.toolchain import Toolchain

#: From sm_90 on cuobjdump counts what the driver reserves in each block as the kernel's own.
RESERVED_SHARED_BYTES = 1024

_FUNCTION = re.compile(
    r"Function (?P<name>\S+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+) "
    r"SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)"
)
_SECTION = re.compile(r"^\s*\.section\s+\.text\.(\S+?),")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(?P<mnemonic>[A-Z][\w.]*)")

#: HFMA2.MMA is none: it is how the compiler moves constants.
_MATRIX = re.compile(r"^([HIDBQO]MMA|[HIQB]GMMA|UTC[HIQO]MMA)$")
_GLOBAL_LOADS = {"LDG", "LDGSTS"}
_SHARED_STORES = {"STS", "STSM", "LDGSTS"}
_BULK = re.compile(r"^(UBLKCP|UBLKRED|UTMA\w+)$")
_BYTES = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
#: ldmatrix and stmatrix: 4 bytes of each thread for every 8 x 8 matrix.
_MATRICES = {"4": 16, "2": 8}


def resources(tools: Toolchain, cubin: Path, architecture: int) -> dict[str, Resources]:
    """Resources of every function in ``cubin``, by its mangled name."""
    listing = _output([str(tools.cuobjdump), "-res-usage", str(cubin)])
    reserved = RESERVED_SHARED_BYTES if architecture >= 90 else 0
    return {
        found["name"]: Resources(
            registers=int(found["registers"]),
            stack_bytes=int(found["stack"]) + int(found["local"]),
            static_shared_bytes=max(0, int(found["shared"]) - reserved),
        )
        for found in _FUNCTION.finditer(listing)
    }


def instructions(tools: Toolchain, cubin: Path) -> dict[str, Instructions]:
    """Instructions of every function in ``cubin``, by its mangled name."""
    listing = _output([str(tools.nvdisasm), "-c", "--no-dataflow", str(cubin)])
    return {name: count(mnemonics) for name, mnemonics in functions(listing)}


def functions(listing: str) -> Iterator[tuple[str, list[str]]]:
    """The functions of a listing by nvdisasm, each with its mnemonics in order."""
    name: str | None = None
    found: list[str] = []
    for line in listing.splitlines():
        section = _SECTION.match(line)
        if section:
            if name is not None:
                yield name, found
            name, found = section.group(1), []
            continue
        instruction = _INSTRUCTION.search(line)
        if instruction and name is not None:
            found.append(instruction["mnemonic"])
    if name is not None:
        yield name, found


def count(mnemonics: list[str]) -> Instructions:
    """Sort instructions by what they do and how wide they are."""
    global_in, global_out, shared_in, shared_out = (Counter[int]() for _ in range(4))
    generic = local_in = local_out = matrix = bulk = 0
    for mnemonic in mnemonics:
        operation, *modifiers = mnemonic.split(".")
        width = _width(operation, modifiers)
        if operation in _GLOBAL_LOADS:
            global_in[width] += 1
        if operation == "STG":
            global_out[width] += 1
        if operation in ("LDS", "LDSM"):
            shared_in[width] += 1
        if operation in _SHARED_STORES:
            shared_out[width] += 1
        generic += operation in ("LD", "ST")
        local_in += operation == "LDL"
        local_out += operation == "STL"
        matrix += _MATRIX.match(operation) is not None
        bulk += _BULK.match(operation) is not None
    return Instructions(
        global_loads=_widest_first(global_in),
        global_stores=_widest_first(global_out),
        shared_loads=_widest_first(shared_in),
        shared_stores=_widest_first(shared_out),
        generic=generic,
        local_loads=local_in,
        local_stores=local_out,
        matrix=matrix,
        bulk_copies=bulk,
    )


def _widest_first(counts: Counter[int]) -> dict[int, int]:
    return dict(sorted(counts.items(), reverse=True))


def _width(operation: str, modifiers: list[str]) -> int:
    table = _MATRICES if operation in ("LDSM", "STSM") else _BYTES
    return next((table[modifier] for modifier in modifiers if modifier in table), 4)


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[:500]}")
    return done.stdout
