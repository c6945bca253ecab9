"""The page of a report, from the results in its folder; and all of them in one file of data.

Imports neither torch nor the package. What a part has not kept is not on the page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from benchmarks.gpu.folder import Folder, Record
from benchmarks.gpu.tables import quartiles, table

HEAD = """\
# GPU report

`python benchmarks/gpu_report.py` wrote this page on a machine with a GPU. Each part ran in
processes of its own; of one that failed or was late, this page has what it had found until then.

## How it was measured

Time is the device's own, between two events around a call. In each round all contenders run once,
one after the other, in an order that moves on by one; a ratio is formed within its round. Reported
are the median over rounds and, in brackets, the quartiles: where these are far apart, something
else kept the device busy, and the row says little.

"Copy of the same bytes" is a copy within the device that reads half of the least bytes and writes
the other half: the least any kernel could take. GB/s are least bytes over time, so that whoever
moves more shows less. Before each call other data fills the L2 cache, except where the table says
that calls follow one another: there the time is of many calls back to back, launches included.
Torch's expressions keep sums and norms in the element type or in float32, ours in float32 and
float64.

A training step is forward and backward from no gradients; with statistics, the record too. Memory
is what torch's allocator gave out at most during the step. Launches and waits are of one step, the
host's calls as the profiler has them; lines that wait are those at which torch says so.
"""
REHEARSED = """
**This was a rehearsal on a CPU. No figure here says anything about a GPU.**
"""
MOST_NAMED = 20


def write(folder: Folder) -> None:
    """Write ``report.md`` and ``report.json`` from what has been kept so far."""
    parts = {record["name"]: record for record in folder.results("parts")}
    results = {name: list(folder.results(name)) for name in parts}
    [about] = list(folder.results("report"))[-1:]
    pieces = [HEAD + REHEARSED * about["rehearsed"]]
    facts = [("date", about["date"]), *about["facts"].items()]
    pieces += ["## Where\n", table(["what", "value"], facts)]
    rows = [
        (
            r["what"],
            r["status"],
            f"{r['seconds']:.0f}",
            "; ".join(filter(None, (r["details"], _counts(results[name])))),
        )
        for name, r in parts.items()
    ]
    pieces += ["## Parts\n", table(["part", "outcome", "seconds", "details"], rows)]
    for name in parts:
        pieces += _section(name.partition("-")[0], parts[name]["what"], results[name])
    replaced(folder, "report.md", "\n".join(pieces))
    data = {**about, "parts": list(parts.values()), "results": results}
    replaced(folder, "report.json", json.dumps(data, indent=1) + "\n")


def replaced(folder: Folder, name: str, text: str) -> None:
    """Write a file as a whole: whoever ends the command meanwhile leaves the one before."""
    new = folder.path / f"{name}.new"
    new.write_text(text, encoding="utf-8")
    new.replace(folder.path / name)


def _counts(records: Sequence[Record]) -> str:
    """How many results of a kind a part has."""
    found = {
        "right": sum(r.get("right") is True for r in records),
        "wrong": sum(r.get("right") is False for r in records),
        **{
            kind: sum(r.get("outcome") == kind for r in records)
            for kind in ("passed", "failed", "skipped")
        },
        "measured": sum("spread" in r or "contenders" in r for r in records),
        "left out": sum("left_out" in r for r in records),
    }
    return ", ".join(f"{n} {kind}" for kind, n in found.items() if n)


def _section(kind: str, title: str, records: Sequence[Record]) -> Iterator[str]:
    text = SECTIONS[kind](records)
    if text:
        yield f"## {title[:1].upper()}{title[1:]}\n"
        yield text


def _smoke(records: Sequence[Record]) -> str:
    """What is wrong by name; of the rest the largest errors."""
    wrong = [r for r in records if r.get("right") is False]
    lines = [
        f"* WRONG: {r['call']}, {r['backend']}, {r['dtype']}: "
        + (r.get("failed") or f"off by {r['off']:.1e}, {r['allowed']:.1e} is allowed")
        for r in wrong
    ]
    rows = []
    for key in dict.fromkeys((r["backend"], r["dtype"]) for r in records if "call" in r):
        own = [r for r in records if (r.get("backend"), r.get("dtype")) == key]
        offs = [r["off"] for r in own if "off" in r]
        rows.append((*key, str(len(own)), f"{max(offs):.1e}" if offs else ""))
    head = ["backend", "type", "calls", "largest error"]
    return "".join(f"{line}\n" for line in lines) + ("\n" if lines else "") + table(head, rows, 2)


def _tests(records: Sequence[Record]) -> str:
    failed = [r for r in records if r.get("outcome") == "failed"]
    lines = [f"* {r['test']}: {r['details']}\n" for r in failed[:MOST_NAMED]]
    if len(failed) > MOST_NAMED:
        lines.append(f"* and {len(failed) - MOST_NAMED} more, in results/tests.jsonl\n")
    return "".join(lines)


def _training(records: Sequence[Record]) -> str:
    merged: dict[tuple[str, bool, str], Record] = {}
    for r in records:
        if "step" in r:
            merged.setdefault((r["model"], r["autocast"], r["step"]), {}).update(r)
    pieces = []
    for model, autocast in dict.fromkeys(key[:2] for key in merged):
        steps = {key[2]: r for key, r in merged.items() if key[:2] == (model, autocast)}
        steps = {"plain": steps.pop("plain", {}), **steps}
        plain = steps["plain"]
        pieces.append(f"{model}, {'bf16 autocast' if autocast else 'fp32'}.\n")
        rows = [_step_row(name, r, plain) for name, r in steps.items()]
        head = ["step", "ms", "times the plain", "quartiles", "MiB", "times the plain", "launches",
                "waits", "off by"]  # fmt: skip
        pieces.append(table(head, rows, 1))
        pieces += [_waiting(name, r["where"]) for name, r in steps.items() if r.get("where")]
    return "\n".join([*pieces, _left_out(records)])


def _step_row(name: str, r: Record, plain: Record) -> Sequence[str]:
    if "failed" in r:
        return (name, "failed", r["failed"], *[""] * 6)
    over = r.get("over_plain")
    peak = r.get("peak_bytes")
    memory = f"{peak / plain['peak_bytes']:.2f}" if peak and plain.get("peak_bytes") else ""
    wrong = " WRONG" if r.get("right") is False else ""
    return (
        name,
        f"{r['spread'][0] * 1e3:,.2f}" if "spread" in r else "",
        f"{over[0]:.3f}" if over else "",
        quartiles(over, 1, 3) if over else "",
        f"{peak / 2**20:,.0f}" if peak is not None else "",
        memory if name != "plain" else "",
        _number(r.get("launches")),
        _number(r.get("waits")),
        f"{r['off']:.1e}{wrong}" if "off" in r else "",
    )


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _waiting(name: str, where: dict[str, int]) -> str:
    most = sorted(where.items(), key=lambda item: -item[1])[:MOST_NAMED]
    return f"{name} waits at " + ", ".join(f"{line} ({n})" for line, n in most) + ".\n"


def _ops(records: Sequence[Record]) -> str:
    cases = [r for r in records if "contenders" in r]
    pieces = []
    for op in dict.fromkeys(r["op"] for r in cases):
        pieces.append(f"### {op}\n")
        pieces += [_case(r) for r in cases if r["op"] == op]
    return "\n".join([*pieces, _left_out(records)])


def _case(r: Record) -> str:
    rounds = len(next(iter(r["contenders"].values()), {"seconds": []})["seconds"])
    caches = (
        "L2 filled with other data before each call" if r["flush"] else "calls follow one another"
    )
    text = f"{r['case']}. Least {r['least_bytes']:,} bytes; {rounds} rounds; {caches}.\n\n"
    head = ["contender", "µs", "quartiles", "GB/s", "times the copy", "quartiles"]
    return text + table(head, list(_contenders(r)), 1)


def _contenders(r: Record) -> Iterator[Sequence[str]]:
    for name, c in sorted(r["contenders"].items(), key=lambda item: item[1]["spread"][0]):
        over = c.get("over_copy")
        yield (
            name,
            f"{c['spread'][0] * 1e6:,.1f}",
            quartiles(c["spread"], 1e6, 1),
            f"{r['least_bytes'] / c['spread'][0] / 1e9:,.0f}",
            f"{over[0]:.2f}" if over else "",
            quartiles(over, 1, 2) if over else "",
        )
    for name, error in r["failed"].items():
        yield name, "failed", error, "", "", ""


def _left_out(records: Sequence[Record]) -> str:
    left = [r["left_out"] for r in records if "left_out" in r]
    return ("Left out, for time:\n\n" + "".join(f"* {title}\n" for title in left)) if left else ""


def _nothing(records: Sequence[Record]) -> str:
    return ""


#: What a kind of part adds to the page.
SECTIONS: dict[str, Callable[[Sequence[Record]], str]] = {
    "build": _nothing,
    "smoke": _smoke,
    "tests": _tests,
    "training": _training,
    "ops": _ops,
    "compile": _ops,
    "memcheck": _nothing,
    "racecheck": _nothing,
}
