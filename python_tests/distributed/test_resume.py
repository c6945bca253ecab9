"""Runs of several ranks that are killed, hang, or go on elsewhere: examples/several_ranks.py.

The run that nobody stops is launched as a user would. The ranks of the others are forks of their
launcher, which torchrun offers too: they do not import torch anew.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.programs import Programs

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "several_ranks.py"
if not EXAMPLE.exists():
    pytest.skip("no examples here: the tests run away from the sources", allow_module_level=True)
pytest.importorskip("sklearn", reason="scikit-learn is not installed")


#: The last one as the example says: ranks that are started again would find the addresses of dead
#: ones in a store that torchrun keeps (pytorch/pytorch#135712).
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}
_SAMPLES = 5000
_BUDGET = (f"--samples={_SAMPLES}", "--checkpoint-every=10")


@dataclass(frozen=True)
class Run:
    """A run's folder, and the process that its launcher is forked from, if it is."""

    folder: Path
    programs: Programs | None

    def go_on(
        self,
        *arguments: str,
        failures: tuple[tuple[int, int, str], ...] = (),
        ranks: int = 2,
        restarts: int = 0,
        patience: float = 60.0,
    ) -> tuple[int, str]:
        """Start or continue it; each failure is a step, a rank and what happens.

        Returns:
            The exit status, and what was printed.
        """
        self.folder.mkdir(exist_ok=True)
        plan = self.folder / "plan.json"
        said = [{"step": s, "rank": r, "what": what} for s, r, what in failures]
        trace = str(self.folder / "trace")
        plan.write_text(json.dumps({"trace": trace, "failures": said, "patience": patience}))
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        launch += [f"--max-restarts={restarts}"]
        if self.programs:
            launch += ["--start-method=fork", "--run-path"]
        launch += [str(HERE / "watched_run.py"), str(plan)]
        launch += [str(EXAMPLE), str(self.folder), *_BUDGET, *arguments]
        if self.programs:
            done = self.programs.run(*launch, env=_ENVIRONMENT)
            return done.returncode, done.stdout + done.stderr
        environment = {**os.environ, **_ENVIRONMENT}
        done = subprocess.run(
            [sys.executable, *launch],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        return done.returncode, done.stdout + done.stderr

    def steps(self) -> list[list[Any]]:
        """Number, samples and gradient norm of every step, those that were taken again included."""
        return [json.loads(line) for line in (self.folder / "trace").read_text().splitlines()]

    def sizes(self) -> list[int]:
        """The samples of every step."""
        return list({step: samples for step, samples, _ in self.steps()}.values())

    def drawn(self) -> list[float]:
        """The sum of every sample in the order of the sampler, without those drawn in vain."""
        shares: list[dict[int, list[float]]] = []
        ranks: dict[int, int] = {}  # that took a step, the last time
        for path in sorted(self.folder.glob("trace.drawn-*")):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            shares.append({step: sums for step, _, sums in lines})
            ranks = ranks or {step: count for step, count, _ in lines}
        found: list[float] = []
        for step, count in ranks.items():
            batch = [0.0] * sum(len(share[step]) for share in shares[:count])
            for rank, share in enumerate(shares[:count]):
                batch[rank::count] = share[step]
            found += batch
        return found

    def state(self) -> dict[str, Any]:
        """The last checkpoint."""
        state: dict[str, Any] = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        return state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody stops."""
    run = Run(tmp_path_factory.mktemp("whole"), None)
    status, printed = run.go_on()
    assert status == 0, printed
    assert sum(run.sizes()) == _SAMPLES
    assert run.sizes()[-2] > run.sizes()[0]
    return run


@pytest.fixture
def run(programs: Programs, tmp_path: Path) -> Run:
    """One for the test to stop."""
    return Run(tmp_path / "run", programs)


def require_same(run: Run, whole: Run) -> None:
    """Bit for bit: every step, the parameters, optimizer, sampler and random generators."""
    once = {step: what for step, *what in run.steps()}
    for step, *what in run.steps():
        assert what == once[step], f"step {step} differs when it is taken again"
    assert once == {step: what for step, *what in whole.steps()}
    ours, expected = run.state(), whole.state()
    assert torch.equal(torch.stack(ours["generators"]), torch.stack(expected["generators"]))
    for name, value in expected["model"].items():
        assert torch.equal(ours["model"][name], value)
    for name in ("controller", "sampler"):
        assert ours[name] == expected[name]
    sums = [state["optimizer"]["state"] for state in (ours, expected)]
    for place, of_parameter in sums[1].items():
        assert torch.equal(sums[0][place]["sum"], of_parameter["sum"])


def test_ranks_that_die_are_started_again_and_change_nothing(whole: Run, run: Run) -> None:
    first, second = sorted(random.sample(range(2, len(whole.sizes())), 2))
    failures = ((first, 1, "dies"), (second, 0, "dies"))
    status, printed = run.go_on(failures=failures, restarts=3)
    assert status == 0, (failures, printed)
    assert len(list(run.folder.glob("trace.failed-*"))) == 2
    require_same(run, whole)


def test_a_run_killed_as_a_whole_goes_on_bit_for_bit(whole: Run, run: Run) -> None:
    step = random.randrange(11, len(whole.sizes()))
    assert run.go_on(failures=((step, 0, "all die"),), restarts=3)[0] != 0
    assert len(run.sizes()) == step
    status, printed = run.go_on()
    assert status == 0, (step, printed)
    require_same(run, whole)


def test_elsewhere_it_draws_the_same_batches(run: Run, tmp_path: Path) -> None:
    """From two ranks to one and back; without dropout, for which each rank has its own generator.

    Every sample in its place, and gradients that differ by no more than other sums round.
    """
    plain = ("--dropout=0", "--workers=0")
    alone = Run(tmp_path / "alone", run.programs)
    assert alone.go_on(*plain, ranks=1)[0] == 0
    assert run.go_on(*plain, failures=((15, 0, "all die"),))[0] != 0
    assert run.go_on(*plain, ranks=1, failures=((25, 0, "all die"),))[0] != 0
    status, printed = run.go_on(*plain)
    assert status == 0, printed
    assert run.sizes() == alone.sizes()
    assert len(alone.drawn()) == _SAMPLES
    assert run.drawn() == alone.drawn()
    norms = {step: float.fromhex(norm) for step, _, norm in alone.steps() if norm is not None}
    for step, _, norm in run.steps():
        if norm is not None:
            assert float.fromhex(norm) == pytest.approx(norms[step], rel=1e-3)


def test_with_other_loader_workers_it_draws_sample_for_sample(run: Run, whole: Run) -> None:
    """Fewer, then more; sizes may change at other steps, since workers draw ahead."""
    assert run.go_on(failures=((14, 0, "all die"),))[0] != 0
    assert run.go_on("--workers=0", failures=((23, 0, "all die"),))[0] != 0
    assert len(run.sizes()) == 23
    status, printed = run.go_on("--workers=3")
    assert status == 0, printed
    assert len(whole.drawn()) == _SAMPLES
    assert run.drawn() == whole.drawn()


def test_a_rank_that_hangs_is_an_error_on_the_others(run: Run) -> None:
    status, printed = run.go_on(failures=((5, 1, "hang"),), patience=10.0)
    assert status != 0
    assert len(run.sizes()) in (5, 6)
    assert "Timed out" in printed or "did not get the numbers" in printed
