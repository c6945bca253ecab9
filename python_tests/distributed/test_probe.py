"""`probe` on several workers: its steps are those of the run, its seconds those of the slowest."""

from __future__ import annotations

import json
from pathlib import Path

import probe_cases
import pytest
from support.programs import Programs
from support.ranks import Told, values

from adadagrad_kernels.cli import main
from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.report.hardware import Hardware, read_hardware
from adadagrad_kernels.training import probe
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.loop import Trainer


def test_workers_take_the_steps_of_one_process(told: dict[str, list[Told]]) -> None:
    settings = probe_cases.config(**probe_cases.GROWING)
    trainer = Trainer(settings, load_data("digits", None))
    steps = trainer.run(lambda line: None, Progress("", 0, quiet=True))
    expected = [(trainer.controller.samples_seen, trainer.controller.batch_size) for _ in steps]
    sizes = [size for _, size in expected]
    assert sizes[-1] > 2 * sizes[0]
    for found in values(told["sizes_of_a_run"]):
        assert found[-1][0] == settings.samples
        # The last two batches of one process share what is left; and sums round differently.
        pairs = list(zip(found, expected, strict=False))[:-2]
        assert len(pairs) > 10
        for (seen, size), (known, other) in pairs:
            assert abs(seen - known) <= len(pairs)
            assert abs(size - other) <= 1


def test_steps_with_a_test_keep_their_size(told: dict[str, list[Told]]) -> None:
    for found in values(told["tests_at_one_size"]):
        assert [size for size, _ in found] == [32] * 20
        suggested = [decided for _, decided in found[1::2]]
        assert len({*suggested}) == 10, "every second step was measured, and decided anew"
        assert max(suggested) > 32


def test_seconds_are_those_of_the_slowest_rank(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["rows_of_a_table"])
    for plain, late in of_ranks:
        for found in (plain, late):
            assert found["workers"]["count"] == len(of_ranks)
            assert [row["share"] for row in found["workers"]["steps"]] == [4, 16]
            assert found["latency"] > 0
            assert found["bandwidth"] > 0
        assert all(row["seconds"] > probe_cases.LATE for row in late["workers"]["steps"])
        assert all(row["tested_seconds"] > probe_cases.LATE for row in late["workers"]["steps"])
        assert all(row["seconds"] > 0 for row in plain["workers"]["steps"])
        assert all("tested_seconds" not in row for row in plain["workers"]["steps"])
        assert [plain, late] == of_ranks[0], "alike on all ranks"


def test_a_network_is_told_so_that_all_reduces_come_out_right(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["a_network"])
    for latency, bandwidth in of_ranks:
        n = 3e6
        hardware = Hardware((1, 2), (1.0, 1.0), latency, bandwidth, gradient_bytes=n)
        assert hardware.step(2, len(of_ranks)) - 1.0 == pytest.approx(1e-3 + n * 1e-9, rel=1e-3)


def test_the_time_of_a_step_has_its_slow_ones_but_not_a_slow_moment() -> None:
    assert probe.middle([1.0, 3.0] * 8) == 2.0
    assert probe.middle([1.0] * 12 + [50.0] * 4) == 1.0
    assert probe.middle([2.0]) == 2.0


@pytest.mark.usefixtures("one_thread")
def test_the_command_on_two_workers(tmp_path: Path, programs: Programs) -> None:
    """As torchrun starts it; ranks are forks of the launcher."""
    train = ["train", "--model", "logistic", "--optimizer", "sgd", "--lr", "0.1", "--test", "none"]
    budget = ["--batch-size", "8", "--samples", "320", "--quiet"]
    assert main([*train, *budget, "--out", str(tmp_path / "run")]) == 0
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom adadagrad_kernels.cli import main\n"
        "from adadagrad_kernels.training import probe\n"
        "probe.SECONDS = 0.05\nsys.exit(main())\n"
    )
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["--start-method=fork", "--run-path", str(program)]
    table = tmp_path / "hardware.json"
    asked = ["probe", str(tmp_path / "run"), "--sizes", "4,16", "--latency", "0.25"]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = programs.run(*launch, *asked, "--out", str(table), env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ms, 2 workers") == 1, "by the first rank alone"
    assert "an all-reduce: 250,000 µs for a message" in done.stdout
    found = json.loads(table.read_text())
    assert [row["batch"] for row in found["steps"]] == [4, 16]
    assert found["gradient_bytes"] == 4 * (64 * 10 + 10)
    # Times of a busy machine may be out of order.
    for name, rows in (("batch", found["steps"]), ("share", found["workers"]["steps"])):
        assert all(row["seconds"] > 0 for row in rows)
        rows[1]["seconds"] = max(row["seconds"] for row in rows)
        assert [row[name] for row in rows] == [4, 16]
    table.write_text(json.dumps(found))
    hardware = read_hardware(table)
    assert hardware.latency == 0.25, "what is given takes the place of what is measured"
    assert hardware.step(16, 2) < 0.5 < hardware.step(16, 4)
