"""Curves against numbers written out by hand: axes, tests, noise scale, mean and standard error."""

from __future__ import annotations

import doctest
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adadagrad_kernels.report import curves, style
from adadagrad_kernels.report.runs import Run, collect, group
from adadagrad_kernels.statistics import noise_estimate


def run_of(*lines: dict[str, Any]) -> Run:
    run = Run("a")
    for place, line in enumerate(lines, start=1):
        run.add({"samples_seen": 10 * place, "steps": place, **line})
    return run


def test_points_along_every_axis() -> None:
    run = run_of({"loss": 3.0, "seconds": 0.5}, {"loss": None}, {"loss": 1.0, "seconds": 2.0})
    assert curves.metric("loss")(run, "samples_seen") == [(10, 3.0), (30, 1.0)]
    assert curves.metric("loss")(run, "steps") == [(1, 3.0), (3, 1.0)]
    assert curves.metric("loss")(run, "seconds") == [(0.5, 3.0), (2.0, 1.0)]


def test_the_last_value_of_a_place_counts() -> None:
    run = run_of({"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0, "samples_seen": 20})
    assert curves.metric("loss")(run, "samples_seen") == [(10, 3.0), (20, 1.0)]


def test_batches_that_the_budget_cut_are_left_out() -> None:
    run = run_of(*({"batch/used": size} for size in (4, 8, 6, 8, 5, 5)))
    assert [size for _, size in curves.batch_size(run, "steps")] == [4, 8, 6, 8]


def test_each_test_is_shown_once_where_it_was_made() -> None:
    first = {"batch/suggested": 24.0, "grad/var": 1.0, "test/eta_min": 0.3, "test/eta": 0.2}
    run = run_of(
        {"batch/used": 8},
        {"batch/used": 8, **first},
        {"batch/used": 24, **first},  # as of the latest test: that of the step before
        {"batch/used": 24, **first, "batch/suggested": 12.0, "test/eta_min": 0.1},
        {**first},
    )
    assert curves.suggested_ratio(run, "steps") == [(2, 3.0), (4, 0.5)]
    ratios = curves.constant_ratio("eta")(run, "steps")
    assert np.array(ratios) == pytest.approx(np.array([(2, 1.5), (4, 0.5)]))
    for line in run.lines:
        line.pop("test/eta", None)
    assert curves.constant_ratio("eta")(run, "steps") == [(2, 0.3), (4, 0.1)]
    assert not curves.is_untested(run)
    assert curves.is_untested(run_of({"batch/used": 8}))


def test_noise_scale_averages_numerator_and_denominator() -> None:
    tests = [(4.0, 0.25, 8), (6.0, 1.25, 8), (5.0, 2.0, 10)]
    run = run_of(*({"grad/var": v, "grad/norm_sq": n, "batch/used": b} for v, n, b in tests))
    found = curves.noise_scale(run, "steps")
    variance = [4.0 * 0.9 + 6.0, (4.0 * 0.9 + 6.0) * 0.9 + 5.0]
    signal = [-0.25 * 0.9 + 0.5, (-0.25 * 0.9 + 0.5) * 0.9 + 1.5]
    expected = [(2, variance[0] / signal[0]), (3, variance[1] / signal[1])]
    assert np.array(found) == pytest.approx(np.array(expected)), "at first there is no signal"


def test_mean_and_standard_error_between_points() -> None:
    curve = curves.mean_curve([[(0, 0.0), (10, 10.0)], [(4, 8.0), (8, 12.0), (20, 0.0)], []])
    assert curve is not None
    assert curve.x.tolist() == [4, 8, 10], "where both seeds are"
    first, second = np.array([4.0, 8.0, 10.0]), np.array([8.0, 12.0, 10.0])
    assert curve.y == pytest.approx((first + second) / 2)
    assert curve.high - curve.y == pytest.approx(abs(first - second) / 2)  # s / sqrt(2) of two


def test_held_values_reach_back() -> None:
    curve = curves.mean_curve([[(2, 8.0), (6, 16.0)], [(2, 4.0), (4, 8.0), (6, 20.0)]], held=True)
    assert curve is not None
    assert curve.x.tolist() == [2, 4, 6]
    assert curve.y.tolist() == [6.0, 12.0, 18.0]


def test_one_seed_has_no_band_and_no_overlap_no_curve() -> None:
    curve = curves.mean_curve([[(1, 2.0), (2, 3.0)]])
    assert curve is not None
    assert curve.low is None
    assert curve.after(1).x.tolist() == [2]
    assert curves.mean_curve([[(1, 2.0)], [(2, 2.0)]]) is None
    assert curves.mean_curve([[], []]) is None


def test_standard_error_of_three() -> None:
    curve = curves.mean_curve([[(1, value)] for value in (1.0, 2.0, 6.0)])
    assert curve is not None
    assert curve.high is not None
    assert (curve.high - curve.y)[0] == pytest.approx(math.sqrt((4 + 1 + 9) / 2) / math.sqrt(3))


def write(path: Path, *labels: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{**label, "samples_seen": place} for label in labels for place in (1, 2)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path.parent


def names(*arguments: object) -> list[tuple[str, list[str | None]]]:
    groups = group(collect([str(argument) for argument in arguments]))
    return [(name, [run.seed for run in runs]) for name, runs in groups.items()]


def test_names_and_seeds(tmp_path: Path) -> None:
    plain, fixed = tmp_path / "cnn-seed0", tmp_path / "cnn"
    for folder in (plain, fixed, fixed / "seed_2", tmp_path / "other" / "cnn"):
        write(folder / "metrics.jsonl", {})
    assert names(plain, fixed / "seed_2") == [("cnn", ["0", "2"])]
    assert names(fixed) == [("cnn", [None])]
    assert names(f"A={plain}", f"A={fixed}") == [("A", ["0", None])]
    assert names(f"A={fixed}", f"A={tmp_path / 'other' / 'cnn'}") == [("A", [None, None])]
    rivals = names(fixed, tmp_path / "other" / "cnn")
    assert len(rivals) == 2, "two folders called alike are two curves"


def test_a_file_of_several_runs_names_them(tmp_path: Path) -> None:
    labels = [{"run": name, "seed": seed} for seed in (0, 1) for name in ("x", "y")]
    one = write(tmp_path / "one" / "metrics.jsonl", *labels)
    two = write(tmp_path / "two" / "metrics.jsonl", *labels)
    assert names(one) == [("x", ["0", "1"]), ("y", ["0", "1"])]
    assert names(f"T={one}") == [("T: x", ["0", "1"]), ("T: y", ["0", "1"])]
    assert [name for name, _ in names(one, two)] == ["one: x", "one: y", "two: x", "two: y"]


def test_numbers_of_axes() -> None:
    assert doctest.testmod(style) == (0, 1)


def test_bands_of_the_noise_scale_are_those_of_its_averages() -> None:
    """One line in words: the interval of the average of two tests, and where it has no end."""
    spread = {"spread/noise": 4.0, "spread/signal": 0.01, "spread/both": 0.1, "spread/level": 0.9}
    lines = [
        {"samples_seen": 10.0 * k, "batch/used": 10, "grad/var": 30.0 + k, "grad/norm_sq": 5.0,
         "batch/suggested": 20.0, "batch/suggested_low": 15.0, "batch/suggested_high": high,
         **spread}
        for k, high in ((1, 40.0), (2, None))
    ]  # fmt: skip
    run = run_of(*lines)
    running, expected = noise_estimate.RunningNoise(0.9), []
    for line in lines:
        signal = 5.0 - line["grad/var"] / 10
        estimate = noise_estimate.NoiseEstimate(10, line["grad/var"], signal, 4.0, 0.01, 0.1)
        expected.append(running.add(estimate).scale_interval(0.9))
    low, high = curves.noise_scale_band(run, "samples_seen")
    assert low == [(10.0, pytest.approx(expected[0][0])), (20.0, pytest.approx(expected[1][0]))]
    assert high == [(10.0, pytest.approx(expected[0][1])), (20.0, pytest.approx(expected[1][1]))]
    curve = curves.mean_curve([curves.noise_scale(run, "samples_seen")])
    assert curve is not None
    banded = curves.with_band(curve, (low, high))
    assert banded.low is not None
    assert banded.high is not None
    assert (banded.low < banded.y).all()
    assert (banded.y < banded.high).all()
    assert curves.suggested_band(run, "samples_seen") == (
        [(10.0, 1.5), (20.0, 1.5)], [(10.0, 4.0), (20.0, math.inf)]
    )  # fmt: skip
    assert curves.with_band(curve, ([], [])) is curve
