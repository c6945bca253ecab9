"""Reads from PTX what machine code no longer says: types of atomics, rounding, block sizes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from gpu_ladder.static.facts import PtxFacts

_FUNCTION = re.compile(
    r"^\s*(?:\.(?:visible|weak|extern)\s+)*\.(?P<kind>entry|func)\s+(?:\([^)]*\)\s*)?(?P<name>[\w$]+)",
    re.MULTILINE,
)
_THREADS = re.compile(r"\.(?:maxntid|reqntid)\s+(?P<sizes>\d+(?:\s*,\s*\d+)*)")
_ATOMIC = re.compile(
    r"(?<![\w.])(?:atom|red|multimem\.red|cp\.reduce\.async\.bulk)\.(?P<rest>[\w.:]+)"
)
_FLOATS = frozenset({"f16", "f16x2", "bf16", "bf16x2", "f32", "f64"})
#: Without a rounding the assembler may turn a product and a sum into one fused operation.
_CONTRACTIBLE = re.compile(
    r"(?<![\w.])(?:add|sub|mul)(?:\.ftz)?(?:\.sat)?\.(?:f16|f16x2|bf16|bf16x2|f32|f32x2|f64)\b"
)


def read(text: str) -> dict[str, PtxFacts]:
    """Facts of every kernel in the PTX with the functions it calls, by its mangled name."""
    text = re.sub(r"//.*", "", text)
    starts = list(_FUNCTION.finditer(text))
    ends = [*(start.start() for start in starts), len(text)][1:]
    bodies = {s["name"]: text[s.start() : end] for s, end in zip(starts, ends, strict=True)}
    return {
        start["name"]: _facts(bodies[start["name"]], _called(start["name"], bodies))
        for start in starts
        if start["kind"] == "entry"
    }


def _called(kernel: str, bodies: Mapping[str, str]) -> str:
    """The bodies of all functions that a kernel mentions, directly or not."""
    found, waiting = {kernel}, [kernel]
    while waiting:
        words = set(re.findall(r"[\w$]+", bodies[waiting.pop()]))
        more = sorted((words & bodies.keys()) - found)
        found.update(more)
        waiting += more
    return "\n".join(bodies[name] for name in sorted(found - {kernel}))


def _facts(kernel: str, called: str) -> PtxFacts:
    head, _, body = kernel.partition("{")
    body += called
    kinds = [not _FLOATS.isdisjoint(re.split(r"[.:]", m["rest"])) for m in _ATOMIC.finditer(body)]
    sizes = _THREADS.search(head)
    return PtxFacts(
        threads=math.prod(int(n) for n in sizes["sizes"].split(",")) if sizes else None,
        float_atomics=sum(kinds),
        integer_atomics=len(kinds) - sum(kinds),
        contractible=len(_CONTRACTIBLE.findall(body)),
    )
