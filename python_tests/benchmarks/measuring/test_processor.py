"""The processor's name in the tables of figures, from what Linux says of it."""

from __future__ import annotations

import platform

import pytest

from benchmarks.measuring import processor


def cpuinfo(vendor: str, family: int, model: int, stepping: int, label: str, flags: str) -> str:
    """Two processors, of which the second says something else."""
    first = (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: {label}\nstepping\t: {stepping}\nflags\t\t: fpu {flags}\n"
    )
    return f"{first}\nprocessor\t: 1\nmodel name\t: another\nmodel\t\t: 1\nflags\t\t: \n"


@pytest.mark.parametrize(
    ("vendor", "numbers", "label", "flags", "expected"),
    [
        ("AuthenticAMD", (23, 49, 0), "AMD EPYC", "avx2", "AMD EPYC (Zen 2): AVX2"),
        ("AuthenticAMD", (25, 1, 1), "AMD EPYC", "avx2", "AMD EPYC (Zen 3): AVX2"),
        (
            "AuthenticAMD", (25, 17, 1), "AMD EPYC", "avx2 avx512f avx512bw avx512_bf16",
            "AMD EPYC (Zen 4): AVX2, AVX-512, AVX-512 BF16",
        ),
        (
            "AuthenticAMD", (25, 97, 2), "AMD Ryzen 9 7950X 16-Core Processor", "avx2 avx512f",
            "AMD Ryzen 9 7950X 16-Core Processor (Zen 4): AVX2, AVX-512",
        ),
        ("AuthenticAMD", (25, 160, 2), "AMD EPYC", "avx2", "AMD EPYC (Zen 4): AVX2"),
        ("AuthenticAMD", (26, 2, 1), "AMD EPYC", "avx2", "AMD EPYC (Zen 5): AVX2"),
        ("AuthenticAMD", (26, 80, 0), "AMD EPYC", "avx2", "AMD EPYC (Zen 6): AVX2"),
        ("AuthenticAMD", (99, 1, 0), "AMD EPYC", "avx2", "AMD EPYC: AVX2"),
        (
            "GenuineIntel", (6, 143, 8), "Intel(R) Xeon(R) Processor  @ 2.70GHz",
            "avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8",
            "Intel Xeon Processor @ 2.70GHz (Sapphire Rapids): AVX2, AVX-512, AVX-512 BF16, AMX",
        ),
        ("GenuineIntel", (6, 85, 4), "Intel(R) Xeon(R)", "", "Intel Xeon (Skylake)"),
        ("GenuineIntel", (6, 85, 7), "Intel(R) Xeon(R)", "", "Intel Xeon (Cascade Lake)"),
        ("GenuineIntel", (6, 85, 11), "Intel(R) Xeon(R)", "", "Intel Xeon (Cooper Lake)"),
        ("GenuineIntel", (6, 158, 10), "Intel(R) Core(TM) i7", "avx2", "Intel Core i7: AVX2"),
        ("SomeoneElse", (25, 17, 1), "A processor", "", "A processor"),
    ],
)  # fmt: skip
def test_generation_and_vectors_stand_beside_the_name(
    vendor: str, numbers: tuple[int, int, int], label: str, flags: str, expected: str
) -> None:
    assert processor.name(cpuinfo(vendor, *numbers, label, flags)) == expected


def test_where_linux_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert processor.name("processor\t: 0\nCPU part\t: 0xd40\n") == "aarch64"
    assert processor.name("") == "aarch64"


def test_this_machine_has_one() -> None:
    assert processor.name()
