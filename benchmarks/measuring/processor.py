"""The processor's name, with what a virtual machine's name leaves out: generation and vectors."""

from __future__ import annotations

import platform
import re
from pathlib import Path

#: By family and first and last model; of arch/x86/kernel/cpu/amd.c of Linux.
AMD = {
    0x17: [
        (0x00, 0x2F, "Zen"), (0x30, 0x4F, "Zen 2"), (0x50, 0x5F, "Zen"), (0x60, 0x7F, "Zen 2"),
        (0x90, 0x91, "Zen 2"), (0xA0, 0xAF, "Zen 2"),
    ],
    0x19: [
        (0x00, 0x0F, "Zen 3"), (0x10, 0x1F, "Zen 4"), (0x20, 0x5F, "Zen 3"), (0x60, 0xAF, "Zen 4"),
    ],
    0x1A: [
        (0x00, 0x2F, "Zen 5"), (0x40, 0x4F, "Zen 5"), (0x50, 0x5F, "Zen 6"), (0x60, 0x7F, "Zen 5"),
        (0x80, 0xAF, "Zen 6"), (0xC0, 0xCF, "Zen 6"),
    ],
}  # fmt: skip

#: Servers by model, and by first stepping; of arch/x86/include/asm/intel-family.h.
INTEL = {
    0x3F: [(0, "Haswell")],
    0x4F: [(0, "Broadwell")],
    0x55: [(0, "Skylake"), (5, "Cascade Lake"), (10, "Cooper Lake")],
    0x6A: [(0, "Ice Lake")],
    0x6C: [(0, "Ice Lake")],
    0x8F: [(0, "Sapphire Rapids")],
    0xAD: [(0, "Granite Rapids")],
    0xAE: [(0, "Granite Rapids")],
    0xAF: [(0, "Sierra Forest")],
    0xCF: [(0, "Emerald Rapids")],
}

#: What the times of the kernels and of torch's matrix products hang on, by Linux's flag.
VECTORS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_tile": "AMX",
}


def name(cpuinfo: str | None = None) -> str:
    """Such as ``AMD EPYC (Zen 4): AVX2, AVX-512``, from the text of /proc/cpuinfo."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            cpuinfo = ""
    lines = cpuinfo.partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    words = re.sub(r"\((R|TM|tm)\)", "", fields["model name"]).split()
    generation = _generation(fields)
    words += [f"({generation})"] if generation else []
    flags = set(fields.get("flags", "").split())
    vectors = ", ".join(label for flag, label in VECTORS.items() if flag in flags)
    return " ".join(words) + (f": {vectors}" if vectors else "")


def _generation(fields: dict[str, str]) -> str | None:
    numbers = (fields.get(key, "") for key in ("cpu family", "model", "stepping"))
    family, model, stepping = (int(number) if number.isdigit() else -1 for number in numbers)
    if fields.get("vendor_id") == "AuthenticAMD":
        ranges = AMD.get(family, [])
        return next((label for first, last, label in ranges if first <= model <= last), None)
    if fields.get("vendor_id") == "GenuineIntel" and family == 6:
        found = [label for first, label in INTEL.get(model, []) if stepping >= first]
        return found[-1] if found else None
    return None
