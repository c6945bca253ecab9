"""The table's rows for warps and blocks: control, barriers, collectives, matrices."""

from __future__ import annotations

from gpu_ladder.ptx.attributes import ALIGNED, MODE_SHIFT
from gpu_ladder.ptx.table import Row


def _barrier_rows() -> list[Row]:
    rows = []
    # bar is barrier.aligned under its old name.
    for head, attributes in (
        ("bar[.cta]", ALIGNED),
        ("barrier[.cta]", 0),
    ):
        for tail, extra in (("", attributes), (".aligned", ALIGNED)):
            if head.startswith("bar[") and tail:
                continue
            rows += [
                Row(f"{head}.sync{tail}", "u32", "barrier", attributes=extra, encode="barrier"),
                Row(f"{head}.sync{tail}", "u32 u32", "barrier", attributes=extra, encode="barrier"),
                Row(
                    f"{head}.arrive{tail}",
                    "u32 u32",
                    "barrier",
                    attributes=extra | (1 << MODE_SHIFT),
                    encode="barrier",
                ),
            ]
            for number, (operation, kind) in enumerate(
                (("and.pred", "pred"), ("or.pred", "pred"), ("popc.u32", "u32"))
            ):
                name, kind_name = operation.split(".")
                for arguments in (f">{kind} u32 !pred", f">{kind} u32 u32 !pred"):
                    rows.append(
                        Row(
                            f"{head}.red.{name}{tail}.{kind_name}",
                            arguments,
                            "barrier",
                            attributes=extra | ((number + 2) << MODE_SHIFT),
                            encode="barrier",
                        )
                    )
    return rows


def _matrix_rows() -> list[Row]:
    rows = []
    head = "mma.sync.aligned"
    for shape, types, a, b, accumulators in (
        ("m16n8k16", ("f16", "bf16"), 4, 2, ("f32",)),
        ("m16n8k8", ("f16", "bf16"), 2, 1, ("f32",)),
        ("m16n8k8", ("tf32",), 4, 2, ("f32",)),
        ("m16n8k4", ("tf32",), 2, 1, ("f32",)),
        ("m16n8k16", ("f16",), 4, 2, ("f16",)),
        ("m16n8k8", ("f16",), 2, 1, ("f16",)),
    ):
        for kind in types:
            for sums in accumulators:
                register, count = ("f32", 4) if sums == "f32" else ("b32", 2)
                rows.append(
                    Row(
                        f"{head}.{shape}.row.col.{sums}.{kind}.{kind}.{sums}",
                        f">{count}*{register} {a}*b32 {b}*b32 {count}*{register}",
                        f"mma.{shape}.{sums}.{kind}",
                    )
                )
    tail = "[.trans][.{shared|shared::cta}].b16"
    rows += [
        Row(
            f"ldmatrix.sync.aligned.m8n8.{{N:x1|x2|x4}}{tail}",
            ">{N}*b32 @",
            "ldmatrix",
            family="memory",
            encode="memory",
        ),
        Row(
            f"stmatrix.sync.aligned.m8n8.{{N:x1|x2|x4}}{tail}",
            "@ {N}*b32",
            "stmatrix",
            "90",
            family="memory",
            encode="memory",
        ),
        Row("movmatrix.sync.aligned.m8n8.trans.b16", ">b32 b32", "movmatrix"),
    ]
    return rows


def _collective_rows() -> list[Row]:
    return [
        Row("shfl.sync.{up|down|bfly|idx}.b32", ">b32|p b32 b32 b32 b32", "shfl"),
        Row("vote.sync.{all|any|uni}.pred", ">pred !pred b32", "vote"),
        Row("vote.sync.ballot.b32", ">b32 !pred b32", "vote", attributes=3 << MODE_SHIFT),
        Row("match.any.sync.{T:b32|b64}", ">b32 _ {T} b32", "match.any.{T}"),
        Row("match.all.sync.{T:b32|b64}", ">b32|p {T} b32", "match.all.{T}"),
        Row("redux.sync.{O:add|min|max}.{T:u32|s32}", ">{T} {T} b32", "redux.{O}.{T}"),
        Row("redux.sync.{O:and|or|xor}.b32", ">b32 b32 b32", "redux.{O}.b32"),
        Row("redux.sync.{O:min|max}[.abs][.NaN].f32", ">f32 f32 b32", "redux.{O}.f32", "100a"),
        Row("activemask.b32", ">b32", "activemask"),
        Row("elect.sync", ">b32|p b32", "elect", "90"),
    ]


def _control_rows() -> list[Row]:
    return [
        Row("bra[.uni]", "L", "bra", encode="branch"),
        Row("brx.idx[.uni]", "u32 L", "brx.idx", encode="branch_indexed"),
        Row("call[.uni]", "L", "call", encode="call"),
        Row("ret[.uni]", "", "ret", encode="leave"),
        Row("exit", "", "exit"),
        Row("trap", "", "trap"),
        Row("nanosleep.u32", "u32", "nanosleep"),
        Row("bar.warp.sync", "b32", "bar.warp.sync"),
        # A grid that runs alone has nothing to wait for, and nobody to let go.
        Row("griddepcontrol.{launch_dependents|wait}", "", "hint", "90", encode="hint"),
    ]


WARP_ROWS: tuple[Row, ...] = (
    *_control_rows(),
    *_barrier_rows(),
    *_collective_rows(),
    *_matrix_rows(),
)
