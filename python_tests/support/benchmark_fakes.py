"""A GPU that is none, for the tests of the GPU report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.gpu.contenders import COPY
from benchmarks.gpu.counts import Call
from benchmarks.gpu.plan import Case


@dataclass
class FakeDevice:
    """Calls take what they add to ``clock``; the host's clock runs ten times as fast."""

    name: str = "cpu"
    clock: float = 0.0
    flushes: list[bool] = field(default_factory=list)
    freed: int = 0

    def seconds(self, call: Call, repeats: int, *, flush: bool) -> float:
        self.flushes.append(flush)
        start = self.clock
        for _ in range(repeats):
            call()
        return (self.clock - start) / repeats

    def wait(self) -> None:
        self.clock += 0.0

    def free(self) -> None:
        self.freed += 1

    def host_clock(self) -> float:
        return 10 * self.clock

    def free_bytes(self) -> int:
        return 64 << 20

    def facts(self) -> dict[str, str]:
        return {"GPU": "Fake GPU 9000", "clock": "1 MHz", "driver": "1.2.3"}


def takes(device: FakeDevice, order: list[str], name: str, times: Sequence[float]) -> Call:
    """A call that takes ``times`` in turn, over and over."""
    turns = itertools.cycle(times)

    def call() -> None:
        order.append(name)
        device.clock += next(turns)

    return call


def case_of(device: FakeDevice, order: list[str], **times: Sequence[float]) -> Case:
    calls = {name: takes(device, order, name, values) for name, values in times.items()}
    calls |= {COPY: calls.pop("copy")} if "copy" in calls else {}
    return Case("op_", "a case", 1000, lambda: calls)
