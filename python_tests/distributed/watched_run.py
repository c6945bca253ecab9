"""Runs an example under torchrun as it is, notes every step, and fails where a test says so.

    watched_run.py PLAN.json EXAMPLE ARGUMENTS...

The plan has ``trace``, the file that gets a line for each step, beside one for each rank with the
number of ranks and the sum of every sample that it has drawn; ``failures``, each with ``step``,
``rank`` and ``what`` happens there, once; and ``patience``, the seconds for which ranks wait.
"""

from __future__ import annotations

import datetime
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import adadagrad_kernels as adk


def main() -> None:
    """Watch, then run."""
    # Torch has a fork interrupted when its launcher dies. Here a rank is killed, or lives.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan = json.loads(Path(sys.argv[1]).read_text())
    trace = Path(plan["trace"])
    update, init = adk.BatchController.update, dist.init_process_group
    forward, drawn = DistributedDataParallel.forward, []

    def seen(self: Any, inputs: Any) -> Any:
        drawn.extend(inputs.double().sum(1).tolist())
        return forward(self, inputs)

    def watched(self: adk.BatchController, statistics: Any, samples: int, **more: Any) -> int:
        size = update(self, statistics, samples, **more)
        with trace.with_suffix(f".drawn-{dist.get_rank()}").open("a") as file:
            file.write(json.dumps([self.steps, dist.get_world_size(), drawn]) + "\n")
        drawn.clear()
        if dist.get_rank() == 0:
            signal_ = None if statistics is None else statistics.mean_sq_norm.hex()
            with trace.open("a") as file:
                file.write(json.dumps([self.steps, samples, signal_]) + "\n")
        for failure in plan["failures"]:
            if [self.steps, dist.get_rank()] == [failure["step"], failure["rank"]]:
                _fail(failure["what"], trace.with_suffix(f".failed-{self.steps}"))
        return size

    def waiting(*given: Any, timeout: object = None, **more: Any) -> None:
        init(*given, timeout=datetime.timedelta(seconds=plan["patience"]), **more)
        trace.with_suffix(f".pid-{dist.get_rank()}").write_text(str(os.getpid()))
        dist.barrier()

    DistributedDataParallel.forward = seen  # type: ignore[method-assign]
    adk.BatchController.update, dist.init_process_group = watched, waiting  # type: ignore[assignment]
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _fail(what: str, mark: Path) -> None:
    if mark.exists():
        return
    mark.touch()
    if what == "hang":
        time.sleep(3600.0)
    if what == "all die":
        os.kill(os.getppid(), signal.SIGKILL)  # torchrun, which would start them again
        ranks = range(dist.get_world_size())
        others = [int(mark.with_suffix(f".pid-{rank}").read_text()) for rank in ranks]
        for process in sorted(others, key=os.getpid().__eq__):  # this one last
            os.kill(process, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


main()
