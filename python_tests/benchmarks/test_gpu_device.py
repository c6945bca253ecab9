"""What the GPU report asks of a device, with a fake torch.cuda, and what a CPU answers."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import device
from benchmarks.gpu.host import HostDevice


def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in str(device.unavailable())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device" in str(device.unavailable())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.unavailable() is None


@pytest.fixture
def cuda_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the device layer asks of ``torch.cuda``, in order; events are 3 ms apart."""
    calls: list[str] = []

    class Event:
        made = 0

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.name = ("start", "end")[Event.made]
            Event.made += 1

        def record(self) -> None:
            calls.append(self.name)

        def elapsed_time(self, end: Event) -> float:
            assert (self.name, end.name) == ("start", "end")
            return 3.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: calls.append(f"device {index}"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("free"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7 << 30, 80 << 30))
    monkeypatch.setattr(torch, "zeros", lambda count, device: f"{4 * count} bytes on {device}")
    monkeypatch.setattr(torch, "sum", lambda other: calls.append(f"read {other}"))
    return calls


def test_what_is_timed_lies_between_two_events(cuda_calls: list[str]) -> None:
    gpu = device.CudaDevice(1)
    assert gpu.seconds(lambda: cuda_calls.append("call"), 1, flush=True) == 3e-3
    read = f"read {device.FLUSH_BYTES} bytes on cuda:1"
    assert cuda_calls == ["device 1", "wait", read, "start", "call", "end", "wait"]
    cuda_calls.clear()
    assert gpu.seconds(lambda: cuda_calls.append("call"), 3, flush=False) == 1e-3
    assert cuda_calls == ["wait", "start", "call", "call", "call", "end", "wait"]
    gpu.wait()
    gpu.free()
    assert cuda_calls[-2:] == ["wait", "free"]
    assert gpu.free_bytes() == 7 << 30


def test_facts_of_the_device(
    cuda_calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    properties = SimpleNamespace(
        name="Fake 9000", major=9, minor=0, multi_processor_count=132,
        total_memory=80 << 30, L2_cache_size=50 << 20,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setenv("PATH", str(tmp_path))
    gpu = device.CudaDevice()
    facts = gpu.facts()
    assert (facts["GPU"], facts["memory"], facts["L2 cache"]) == ("Fake 9000", "80 GiB", "50 MiB")
    assert facts["driver"] == "unknown: no nvidia-smi"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '580.1, 1980 MHz, 1980 MHz, 3201 MHz, 700 W, 31'\n")
    program.chmod(0o755)
    facts = gpu.facts()
    assert (facts["driver"], facts["clock"], facts["power limit"]) == ("580.1", "1980 MHz", "700 W")
    program.write_text("#!/bin/sh\necho 'driver and library do not agree'\nexit 18\n")
    assert gpu.facts()["clock"] == "unknown: nvidia-smi fails"


def test_memory_of_a_call_is_above_what_there_was(
    cuda_calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: cuda_calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1700)
    gpu = device.CudaDevice()
    cuda_calls.clear()
    assert gpu.peak_bytes(lambda: cuda_calls.append("call")) == 700
    assert cuda_calls == ["wait", "reset", "call", "wait"]


def test_lines_that_wait(cuda_calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch warns at each, and once that it may not see all."""
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def call() -> None:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    [(line, times)] = device._waiting_lines(call).items()
    assert line.startswith("benchmarks/test_gpu_device.py:")
    assert times == 3
    assert modes == ["warn", "default"]

    def broken() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        device._waiting_lines(broken)
    assert modes[2:] == ["warn", "default"]


def test_a_cpu_in_its_place_counts_operators_and_numbers_that_are_read() -> None:
    cpu = HostDevice()
    numbers = torch.rand(1000)

    def call() -> None:
        total = numbers.sum() + numbers.amax()
        total.item()
        numbers.tolist()

    counts = cpu.counts(call)
    assert counts.waits == 1
    assert counts.launches is not None
    assert 3 <= counts.launches <= 12
    assert cpu.peak_bytes(lambda: torch.empty(1 << 20)) == 4 << 20
    assert cpu.seconds(lambda: None, 3, flush=True) >= 0
