"""Forecasts against sums written out, tables out of order, runs that do not reach the target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adadagrad_kernels.cli import main
from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.report.hardware import Hardware, read_hardware
from adadagrad_kernels.report.plan import common_loss, forecasts, loss_of
from adadagrad_kernels.report.runs import Run

TABLE = {
    "steps": [{"batch": 8, "seconds": 0.002}, {"batch": 16, "seconds": 0.003},
              {"batch": 64, "seconds": 0.011}],
    "latency": 0.0001, "bandwidth": 1e9, "gradient_bytes": 4e6,
}  # fmt: skip


def lines(batch: int, losses: list[float], **others: Any) -> list[dict[str, Any]]:
    """Ten steps of one size between two evaluations."""
    return [
        {"samples_seen": 10 * batch * k, "steps": 10 * k, "train_loss": loss, "seconds": 0.1 * k,
         "batch/used": batch, **others}
        for k, loss in enumerate(losses, start=1)
    ]  # fmt: skip


def run_of(name: str, *rows: dict[str, Any]) -> Run:
    run = Run(name)
    for row in rows:
        run.add(row)
    return run


def test_a_step_is_a_share_and_an_all_reduce(tmp_path: Path) -> None:
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps(TABLE))
    hardware = read_hardware(path)
    assert hardware.step(4) == 0.002
    assert hardware.step(12) == pytest.approx(0.0025)
    assert hardware.step(40) == pytest.approx(0.007)
    assert hardware.step(112) == pytest.approx(0.019), "beyond the table, on the last line"
    reduce = 2 * 2 * 0.0001 + 2 * 0.75 * 4e6 / 1e9
    assert hardware.step(64, 4) == pytest.approx(0.003 + reduce)
    assert hardware.step(62, 4) == pytest.approx(0.003 + reduce), "the largest share counts"
    alone = {key: TABLE[key] for key in ("steps",)}
    path.write_text(json.dumps(alone))
    assert read_hardware(path).step(64, 4) == 0.003


WORKERS: dict[str, Any] = {
    "count": 2,
    "steps": [{"share": 4, "seconds": 0.003}, {"share": 8, "seconds": 0.005}],
}


def test_measured_steps_of_workers_take_the_place_of_the_all_reduce(tmp_path: Path) -> None:
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps({**TABLE, "workers": WORKERS}))
    hardware = read_hardware(path)
    assert hardware.step(12) == pytest.approx(0.0025), "one worker as before"
    assert hardware.step(12, 2) == pytest.approx(0.004), "a share of 6"
    assert hardware.step(20, 2) == pytest.approx(0.006), "a share of 10, on the last line"
    # Of four workers: two messages more, and three quarters of the bytes twice for one half.
    further = 2 * 0.0001 + 2 * (0.75 - 0.5) * 4e6 / 1e9
    assert hardware.step(24, 4) == pytest.approx(0.004 + further)
    # Of statistics, a fifth of a worker's own step, nothing waits for the others.
    assert hardware.step(12, 1, statistics=0.2) == pytest.approx(0.0025 / 0.8)
    assert hardware.step(24, 2, statistics=0.2) == pytest.approx(0.007 + 0.0025 * 0.25)
    slow = Hardware((8, 16), (0.002, 0.003), measured_workers=4, latency=0.1, together=None)
    assert slow.step(16, 2, statistics=0.5) == pytest.approx(2 * 0.002 + 2 * 0.1)


def test_fewer_workers_than_were_measured_are_no_faster_than_one_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps({**TABLE, "workers": {**WORKERS, "count": 16}}))
    assert read_hardware(path).step(16, 2) == 0.002


def test_measured_tests_say_what_they_take_of_several_workers(tmp_path: Path) -> None:
    """Of one worker the run's own share; of two as many times that as the table has."""
    path = tmp_path / "hardware.json"
    times = {8: 0.002, 16: 0.003}
    rows = [{"batch": b, "seconds": s, "tested_seconds": 1.5 * s} for b, s in times.items()]
    slower = [{**row, "tested_seconds": row["seconds"] + 0.003} for row in WORKERS["steps"]]
    path.write_text(json.dumps({"steps": rows, "workers": {**WORKERS, "steps": slower}}))
    hardware = read_hardware(path)
    assert hardware.step(12) == pytest.approx(0.0025)
    assert hardware.step(12, statistics=0.2) == pytest.approx(0.0025 / 0.8)
    assert hardware.step(12, 2) == pytest.approx(0.004)
    for share in (0.5 / 1.5, 0.01):  # of the probed test, and of another that takes less
        own = 0.0025 * share / (1 - share)
        ratio = 0.003 / (0.5 * 0.0025)
        assert hardware.step(12, 2, statistics=share) == pytest.approx(0.004 + own * ratio)
    # Without workers in the table: half of the batch, which takes less of a worker.
    path.write_text(json.dumps({"steps": [{"batch": 1, "seconds": 0.001}, *rows]}))
    own = 0.003 * 0.25
    assert read_hardware(path).step(16, 2, statistics=0.2) == pytest.approx(0.002 + own * 2 / 3)


def test_a_test_that_takes_too_little_is_a_share(tmp_path: Path) -> None:
    path = tmp_path / "hardware.json"
    rows = [{"batch": b, "seconds": 0.001 * b, "tested_seconds": 0.00101 * b} for b in (8, 16)]
    path.write_text(json.dumps({"steps": rows}))
    assert read_hardware(path).step(16, 2, statistics=0.2) == pytest.approx(0.008 / 0.8)


def test_steps_once_the_largest_batch_is_reached_have_no_test() -> None:
    """Tests took a quarter of the first ten steps, half of the next, and none of the last."""
    run = run_of(
        "growing",
        *(
            {"samples_seen": 160 * k, "steps": 10 * k, "train_loss": 1.0 / k, "seconds": 0.4 * k,
             "statistics_seconds": measuring, "statistics_share": 0.25, "batch/suggested": 20.0}
            for k, measuring in ((1, 0.1), (2, 0.3), (3, 0.3))
        ),
    )  # fmt: skip
    plain = Hardware((8, 16), (0.002, 0.003))
    (found,) = forecasts({"growing": [run]}, plain, [1], "train_loss", 1.0 / 3)
    assert found.seconds == pytest.approx(10 * 0.003 * (1 / 0.75 + 1 / 0.5 + 1))


def test_forecasts_are_sums_over_the_runs_own_steps() -> None:
    fixed = run_of("fixed", *lines(16, [1.0, 0.5, 0.3]))
    growing = run_of(
        "growing",
        *lines(8, [0.9], **{"batch/suggested": 20.0, "statistics_share": 0.2}),
        {"samples_seen": 720, "steps": 20, "train_loss": 0.4, "seconds": 0.3, "batch/used": 64,
         "batch/suggested": 90.0, "statistics_share": 0.25},
    )  # fmt: skip
    groups = {"fixed": [fixed], "growing": [growing]}
    hardware = Hardware((8, 16, 64), (0.002, 0.003, 0.011), latency=0.0001)
    name = loss_of(groups)
    assert name == "train_loss"
    assert common_loss(groups, name) == 0.4
    one, four, other, _ = forecasts(groups, hardware, [1, 4], name, 0.5)
    assert (one.steps, one.samples, one.measured) == (20, 320, 0.2)
    assert one.seconds == pytest.approx(20 * 0.003)
    assert four.seconds == pytest.approx(20 * (0.002 + 4 * 0.0001))
    assert four.measured is None
    assert four.device_hours == pytest.approx(4 * four.seconds / 3600)
    assert other.seconds == pytest.approx((10 * 0.002 + 10 * 0.011) / 0.75)
    assert (one.adaptive, other.adaptive) == (False, True)
    with pytest.raises(DataFormatError, match=r"does not reach the target 0.35, the lowest is 0.4"):
        forecasts(groups, hardware, [1], name, 0.35)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": TABLE["steps"][::-1]}, "batch 16 comes after 64: put the rows in rising order"),
        ({"steps": TABLE["steps"][:1]}, "has 1 rows of steps; accepted are 2 or more"),
        (
            {"steps": [{"batch": 8, "seconds": 1.0}, {"batch": 16, "seconds": 0.5}]},
            "of the steps, one of 16 samples takes 0.5 s, less than the 1 s of one of 8: measure",
        ),
        ({"steps": [{"batch": 8}]}, "no table of hardware .KeyError: 'seconds'.; make one with"),
        ({"bandwidth": 0}, "bandwidth is 0, accepted is a number above 0"),
        ({"steps": [{"batch": 8, "seconds": -1.0}]}, "seconds is -1.0, accepted is a number"),
        ({"workers": {**WORKERS, "count": 1}}, "count of workers is 1, accepted is a whole number"),
        ({"workers": {"count": 2}}, "no table of hardware .KeyError: 'steps'"),
        (
            {"workers": {**WORKERS, "steps": WORKERS["steps"][::-1]}},
            "share 4 comes after 8: put the rows in rising order, each share once",
        ),
        ({"workers": {**WORKERS, "steps": []}}, "has 0 rows of workers' steps; accepted are 2"),
        (
            {"steps": [{**TABLE["steps"][0], "tested_seconds": 1.0}, *TABLE["steps"][1:]]},
            "has 1 rows of steps with a test; accepted are 2 or more",
        ),
        (
            {"steps": [{**row, "tested_seconds": 1 / row["batch"]} for row in TABLE["steps"]]},
            "of the steps with a test, one of 16 samples takes 0.0625 s, less than the 0.125 s",
        ),
        (
            {
                "steps": [{**row, "tested_seconds": 1.0} for row in TABLE["steps"]],
                "workers": WORKERS,
            },
            "tested_seconds in steps or in the workers' steps alone; accepted are both or neither",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps({**TABLE, **change}))
    with pytest.raises(DataFormatError, match=message):
        read_hardware(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, batch, suggested in (("fixed", 8, {}), ("adaptive", 16, {"batch/suggested": 9.0})):
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines(batch, [1.0, 0.5], **suggested))
        (tmp_path / name / "metrics.jsonl").write_text(text)
    table = tmp_path / "hardware.json"
    table.write_text(json.dumps(TABLE))
    command = [
        "plan",
        str(tmp_path / "fixed"),
        str(tmp_path / "adaptive"),
        "--hardware",
        str(table),
    ]
    assert main([*command, "--workers", "1,2"]) == 0
    text = capsys.readouterr().out
    assert "to a train_loss of 0.5:" in text
    assert "1 worker: adapting does not pay, +50% of the seconds of the best without" in text
    assert "2 workers: adapting neither pays nor costs, +0% of the seconds" in text
    assert text.count("simulated") == 2
    assert main([*command, "--workers", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["workers"] for row in found["forecasts"]] == [2, 2]
    assert main([*command, "--target", "0.4"]) == 1
    assert "give a higher --target, or a longer run" in capsys.readouterr().err
