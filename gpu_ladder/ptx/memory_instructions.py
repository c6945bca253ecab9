"""The table's rows for memory: loads, stores, atomics, fences, asynchronous copies, addresses."""

from __future__ import annotations

from gpu_ladder.ptx.table import Row

_SMALL = "{T:b8|u8|s8|b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64}"
_WIDE4 = "{T:b8|u8|s8|b16|u16|s16|b32|u32|s32|f32}"
_WORDS = "{T:b32|u32|s32|f32}"
_DOUBLES = "{T:b64|u64|s64|f64}"
_SCOPES = "{cta|gpu|sys}"
_SPACES = "{global|shared|shared::cta|local}"
# What other threads can see.
_VISIBLE = "{global|shared|shared::cta}"
_POLICY = "[~.L2::cache_hint]"
_PREFETCH = "[~.{L2::64B|L2::128B|L2::256B}]"
_EVICT = "[~.{L1::evict_normal|L1::evict_unchanged|L1::evict_first|L1::evict_last|L1::no_allocate}]"
_LOAD = "ld.{T_load}.{width}"
_STORE = "st.{T_bits}.{width}"


def _vectors(
    name: str, head: str, tail: str, engine: str, load: bool, since: str = "80"
) -> list[Row]:
    """Scalars and the vectors of up to 16 bytes."""

    def arguments(data: str) -> str:
        return f">{data} @" if load else f"@ {data}"

    return [
        Row(f"{name}{head}{tail}.{types}", arguments(data), engine, since, 0, "memory", "memory")
        for types, data in (
            (_SMALL, "{T}+"),
            (f"{{V:v2}}.{_SMALL}", "{V}*{T}+"),
            (f"{{V:v4}}.{_WIDE4}", "{V}*{T}+"),
        )
    ]


def _load_rows() -> list[Row]:
    rows = [
        *_vectors("ld", "[.weak]", f"[.{_SPACES}][~.{{ca|cg|cs|lu|cv}}]", _LOAD, True),
        *_vectors("ld", "[.weak].global", f"{_EVICT}{_POLICY}{_PREFETCH}", _LOAD, True),
        *_vectors("ld", "", f".volatile[.{_VISIBLE}]", _LOAD, True),
        *_vectors("ld", f".{{relaxed|acquire}}.{_SCOPES}", f"[.{_VISIBLE}]", _LOAD, True),
        *_vectors("ld", ".global[~.{ca|cg|cs}].nc", f"{_POLICY}{_PREFETCH}", _LOAD, True),
        *_vectors("ld", ".global.nc", f"{_EVICT}{_POLICY}{_PREFETCH}", _LOAD, True),
        *_vectors("ld", ".{const|param|param::entry}", "", _LOAD, True),
    ]
    for middle in ("", ".nc"):
        head = f"ld.global{middle}{_EVICT}{_POLICY}{_PREFETCH}"
        rows += [
            Row(f"{head}.{{V:v8}}.{_WORDS}", ">{V}*{T} @", _LOAD, "100", 0, "memory", "memory"),
            Row(f"{head}.{{V:v4}}.{_DOUBLES}", ">{V}*{T} @", _LOAD, "100", 0, "memory", "memory"),
        ]
    return rows


def _store_rows() -> list[Row]:
    rows = [
        *_vectors("st", "[.weak]", f"[.{_SPACES}][~.{{wb|cg|cs|wt}}]", _STORE, False),
        *_vectors("st", "[.weak].global", f"{_EVICT}{_POLICY}", _STORE, False),
        *_vectors("st", "", f".volatile[.{_VISIBLE}]", _STORE, False),
        *_vectors("st", f".{{relaxed|release}}.{_SCOPES}", f"[.{_VISIBLE}]", _STORE, False),
        *_vectors("st", ".param", "", _STORE, False),
    ]
    head = f"st.global{_EVICT}{_POLICY}"
    rows += [
        Row(f"{head}.{{V:v8}}.{_WORDS}", "@ {V}*{T}", _STORE, "100", 0, "memory", "memory"),
        Row(f"{head}.{{V:v4}}.{_DOUBLES}", "@ {V}*{T}", _STORE, "100", 0, "memory", "memory"),
    ]
    return rows


def _atomic_rows() -> list[Row]:
    orders = "[.{relaxed|acquire|release|acq_rel}]"
    spaces = "[.{global|shared|shared::cta}]"
    # The manual's order of modifiers, and another one that ptxas takes too and Triton writes.
    heads = {
        "atom": (
            f"{orders}[.{_SCOPES}]{spaces}",
            f".{{global|shared}}.{_SCOPES}.{{relaxed|acquire|release|acq_rel}}",
        ),
        "red": (
            f"[.{{relaxed|release}}][.{_SCOPES}]{spaces}",
            f".{{global|shared}}.{_SCOPES}.{{relaxed|release}}",
        ),
    }
    operations = [
        ("add", "{T:u32|s32|u64|f32|f64}", "80"),
        ("add.noftz", "{T:f16|f16x2}", "80"),
        ("add.noftz", "{T:bf16|bf16x2}", "90"),
        ("{O:min|max}", "{T:u32|s32|u64|s64}", "80"),
        ("{O:and|or|xor}", "{T:b32|b64}", "80"),
        ("{O:inc|dec}", "{T:u32}", "80"),
    ]
    rows = []
    for name, orderings in heads.items():
        for head in orderings:
            for operation, types, since in operations:
                engine = "atom.{O}.{T}" if operation.startswith("{") else "atom.add.{T}"
                rows.append(
                    Row(
                        f"{name}{head}.{operation}{_POLICY}.{types}",
                        ">{T} @ {T}" if name == "atom" else "_ @ {T}",
                        engine,
                        since,
                        family="memory",
                        encode="memory",
                    )
                )
    for head in heads["atom"]:
        rows += [
            Row(
                f"atom{head}.exch{_POLICY}.{{T:b32|b64}}",
                ">{T} @ {T}",
                "atom.exch.{T}",
                family="memory",
                encode="memory",
            ),
            Row(
                f"atom{head}.cas.{{T:b16|b32|b64}}",
                ">{T} @ {T} {T}",
                "atom.cas.{T}",
                family="memory",
                encode="memory",
            ),
        ]
    return rows


def _other_rows() -> list[Row]:
    spaces = "global|shared|shared::cta|local|const|param|param::entry"
    copy = "[~.L2::cache_hint][~.{L2::64B|L2::128B|L2::256B}]"
    rows = [
        Row(
            "cvta.{global|shared|shared::cta|local|const|param|param::entry}.{T:u64}",
            ">{T} {T}",
            "cvta.{T_bits}",
            family="memory",
        ),
        Row(f"cvta.to.{{{spaces}}}.{{T:u64}}", ">{T} {T}", "cvta.to.{T_bits}", family="memory"),
        Row(
            "isspacep.{global|shared|shared::cta|local}",
            ">pred u64",
            "isspacep",
            family="memory",
        ),
        Row(
            "mapa[.shared::cluster].{T:u32|u64}",
            ">{T} {T} u32",
            "mapa.{T_bits}",
            "90",
            family="memory",
        ),
        Row("membar.{cta|gl|sys}", "", "fence", family="memory", encode="fence"),
        Row(f"fence[.{{sc|acq_rel}}].{_SCOPES}", "", "fence", family="memory", encode="fence"),
        Row(
            f"fence.{{acquire|release}}.{_SCOPES}",
            "",
            "fence",
            "90",
            family="memory",
            encode="fence",
        ),
        Row("cp.async.commit_group", "", "cp.async.commit_group", family="memory"),
        Row("cp.async.wait_group", "#", "cp.async.wait_group", family="memory"),
        Row("cp.async.wait_all", "", "cp.async.wait_all", family="memory"),
        Row("prefetch[.{global|local}].{L1|L2}", "@", "hint", family="memory", encode="hint"),
        Row("prefetchu.L1", "@", "hint", family="memory", encode="hint"),
        Row(
            "createpolicy.fractional.{L2::evict_first|L2::evict_last|L2::evict_normal"
            "|L2::evict_unchanged}[.L2::evict_unchanged].b64",
            ">b64",
            "mov.64",
            family="memory",
            encode="policy",
            excluded=(("L2::evict_normal", "L2::evict_unchanged"),),
        ),
        Row(
            "createpolicy.fractional.{L2::evict_first|L2::evict_last|L2::evict_normal"
            "|L2::evict_unchanged}[.L2::evict_unchanged].b64",
            ">b64 f32",
            "mov.64",
            family="memory",
            encode="policy",
            excluded=(("L2::evict_normal", "L2::evict_unchanged"),),
        ),
    ]
    for cache in ("ca", "cg"):
        head = f"cp.async.{cache}.{{shared|shared::cta}}.global{copy}"
        for arguments in ("@ @ #target", "@ @ #target u32"):
            rows.append(Row(head, arguments, "cp.async", family="memory", encode="copy"))
    return rows


MEMORY_ROWS: tuple[Row, ...] = (
    *_load_rows(),
    *_store_rows(),
    *_atomic_rows(),
    *_other_rows(),
)
