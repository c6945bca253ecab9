"""The controller against the rule of the paper, written out here a second time."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.criteria import Decision, NormTest
from adadagrad_kernels.statistics import GradientStatistics

# The batch of eight gradients in five dimensions whose statistics are known by hand.
KNOWN = GradientStatistics(batch_size=8, mean_sq_norm=6.05078125, sum_sq_norms=207.25)


@dataclasses.dataclass
class Scripted:
    """A criterion that suggests what it is told to."""

    suggestions: list[float]
    name = "scripted"
    needs_variance = False
    needs_inner_products = False

    def __call__(self, statistics):
        suggestion = self.suggestions.pop(0)
        return Decision(self.name, suggestion, suggestion <= statistics.batch_size, {})


def statistics_of(batch_size, mean_sq_norm=1.0):
    return GradientStatistics(
        batch_size=batch_size, mean_sq_norm=mean_sq_norm, sum_sq_norms=9.0 * batch_size
    )


@pytest.mark.parametrize(("eta", "expected"), [(0.1, 376), (0.25, 61), (0.5, 16), (1.0, 8)])
def test_norm_test_on_the_known_batch(eta, expected):
    controller = BatchController(NormTest(eta), batch_size=8, max_batch_size=60_000)
    assert controller.update(KNOWN) == expected == controller.batch_size
    assert controller.metrics()["grad/norm_sq"] == 6.05078125
    assert controller.metrics()["grad/var"] == pytest.approx(22.691964285714285, rel=1e-14)
    assert controller.metrics()["gns"] == pytest.approx(22.6919642857 / 3.2142857143)
    assert controller.metrics()["test/eta_min"] == pytest.approx(
        math.sqrt(22.691964285714285 / (8 * 6.05078125)), rel=1e-14
    )


@pytest.mark.parametrize(
    ("suggestion", "expected"),
    [(7.0, 8), (8.0, 8), (8.001, 16), (16.0, 16), (55.9, 56), (56.1, 64), (64.5, 64), (1e300, 64)],
)
def test_suggestions_are_rounded_up_to_a_multiple_below_the_cap(suggestion, expected):
    controller = BatchController(
        Scripted([suggestion]), batch_size=8, max_batch_size=64, round_to=8
    )
    assert controller.update(statistics_of(8)) == expected


SUGGESTIONS = st.integers(0, 400).map(lambda quarters: quarters / 4)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(SUGGESTIONS | SUGGESTIONS | st.sampled_from([math.inf, math.nan]), max_size=12),
    st.integers(2, 6),
    st.integers(0, 12),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 3),
    st.sampled_from([None, 1.01, 1.5, 4.0]),
    st.booleans(),
)
def test_sizes_follow_the_rule(suggestions, first, more, round_to, interval, cap, shrink):
    first, last = first * round_to, (first + more) * round_to
    script = Scripted(list(suggestions))
    controller = BatchController(
        script,
        batch_size=first,
        max_batch_size=last,
        round_to=round_to,
        test_interval=interval,
        growth_cap=cap,
        allow_shrink=shrink,
    )
    size, seen, nonfinite = first, 0, 0
    remaining = list(suggestions)
    multiples = range(round_to, last + round_to, round_to)
    for step in range(1, 2 * len(suggestions) + 2):
        tests = step % interval == 0 and (shrink or size < last) and remaining
        if not remaining:
            break
        assert controller.wants_test() == bool(tests)
        seen += size
        before = size
        controller.update(statistics_of(size))
        if tests:
            wanted = remaining.pop(0)
            if math.isnan(wanted):
                nonfinite += 1
            else:
                allowed = [m for m in multiples if m >= (first if shrink else before)]
                if cap is not None:
                    allowed = [m for m in allowed if m <= max(before * cap, before + round_to)]
                size = next((m for m in allowed if m >= wanted), allowed[-1])
        assert controller.batch_size == size
        assert (controller.steps, controller.samples_seen) == (step, seen)
        assert controller.average_batch_size == seen / step
        assert controller.nonfinite_steps == nonfinite
    assert script.suggestions == remaining


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_statistics_keep_the_size_and_are_reported_once(bad, caplog):
    controller = BatchController(NormTest(0.1), batch_size=8, max_batch_size=64)
    for _ in range(3):
        assert controller.update(statistics_of(8, mean_sq_norm=bad)) == 8
    assert controller.nonfinite_steps == 3
    assert controller.metrics()["nonfinite_steps"] == 3.0
    assert (controller.steps, controller.samples_seen) == (3, 24)
    assert controller.last_decision is None
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "adadagrad_kernels"
    assert "step 1: non-finite statistics; the batch size stays 8" in caplog.text


def test_nonfinite_statistics_are_counted_where_nothing_is_tested_too():
    controller = BatchController(None, batch_size=8, max_batch_size=8)
    controller.update(statistics_of(8, mean_sq_norm=math.nan))
    assert (controller.batch_size, controller.nonfinite_steps) == (8, 1)


def test_a_suggestion_of_nan_keeps_the_size_and_infinity_means_the_cap(caplog):
    controller = BatchController(Scripted([math.nan, math.inf]), batch_size=8, max_batch_size=64)
    assert controller.update(statistics_of(8)) == 8
    assert controller.nonfinite_steps == 1
    assert "non-finite batch size suggested by scripted" in caplog.text
    assert controller.update(statistics_of(8)) == 64
    assert controller.nonfinite_steps == 1


def test_a_vanishing_mean_gradient_keeps_the_size():
    controller = BatchController(NormTest(0.5), batch_size=8, max_batch_size=64)
    assert controller.update(statistics_of(8, mean_sq_norm=1e-13)) == 8
    assert controller.nonfinite_steps == 0


def test_a_batch_of_one_keeps_the_size_with_one_warning(caplog):
    controller = BatchController(Scripted([]), batch_size=1, max_batch_size=64)
    assert not controller.wants_test()
    for _ in range(3):
        assert controller.update(statistics_of(1)) == 1
    assert controller.steps == 3
    assert [record.message for record in caplog.records] == [
        "a batch of one sample has no variance, so the batch size stays 1: "
        "start with batch_size=2 or more"
    ]


def test_a_tail_of_one_sample_is_counted_and_not_tested(caplog):
    controller = BatchController(Scripted([]), batch_size=8, max_batch_size=64)
    assert controller.wants_test()
    assert not controller.wants_test(1)
    assert controller.update(statistics_of(1)) == 8
    assert (controller.steps, controller.samples_seen) == (1, 1)
    assert caplog.records == []


def test_the_criterion_is_not_asked_at_the_cap():
    controller = BatchController(Scripted([100.0]), batch_size=8, max_batch_size=64)
    assert controller.update(statistics_of(8)) == 64
    assert not controller.wants_test()
    assert controller.update(statistics_of(64)) == 64  # an empty script would raise
    assert controller.metrics()["batch/suggested"] == 100.0


def test_a_criterion_that_raises_changes_nothing():
    controller = BatchController(Scripted([]), batch_size=8, max_batch_size=64)
    before = controller.state_dict()
    with pytest.raises(IndexError):
        controller.update(statistics_of(8))
    with pytest.raises(ValueError, match="samples must be an integer of at least 1, got 0"):
        controller.update(statistics_of(8), samples=0)
    with pytest.raises(ValueError, match="samples must be an integer of at least 1, got -8"):
        controller.step(-8)
    assert controller.state_dict() == before


def test_statistics_of_a_part_decide_and_the_whole_step_is_counted():
    controller = BatchController(NormTest(0.5), batch_size=8, max_batch_size=64)
    assert controller.update(KNOWN, samples=80) == 16
    assert controller.samples_seen == 80


def test_a_fixed_batch_has_no_test():
    controller = BatchController(None, batch_size=4, max_batch_size=8)
    assert not controller.wants_test()
    assert controller.step(4) == controller.update(statistics_of(4)) == 4
    assert controller.metrics() == {
        "batch/global": 4.0,
        "batch/average": 4.0,
        "samples_seen": 8.0,
        "steps": 2.0,
        "nonfinite_steps": 0.0,
    }
    assert all(isinstance(value, float) for value in controller.metrics().values())


def test_metrics_of_a_test_have_their_names():
    controller = BatchController(NormTest(0.5), batch_size=8, max_batch_size=64)
    controller.update(KNOWN)
    metrics = controller.metrics()
    assert set(metrics) >= {"batch/suggested", "test/passed", "test/eta_min", "grad/var", "gns"}
    assert metrics["batch/suggested"] == pytest.approx(15.00101, abs=1e-5)
    assert (metrics["test/passed"], metrics["batch/global"]) == (0.0, 16.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 8.0}, "batch_size must be an integer of at least 1, got 8.0"),
        ({"batch_size": 128}, "batch_size 128 is above max_batch_size 64"),
        ({"round_to": 3}, "batch_size 8 is not a multiple of round_to 3; nearest: 6 or 9"),
        ({"round_to": 16}, "batch_size 8 is not a multiple of round_to 16; nearest: 16"),
        (
            {"round_to": 8, "max_batch_size": 100},
            "max_batch_size 100 is not a multiple of round_to 8; nearest: 96 or 104",
        ),
        ({"round_to": 0}, "round_to must be an integer of at least 1, got 0"),
        ({"test_interval": 0}, "test_interval must be an integer of at least 1, got 0"),
        ({"growth_cap": 1.0}, "growth_cap must be a finite factor above 1, got 1.0"),
        ({"growth_cap": math.nan}, "growth_cap must be a finite factor above 1, got nan"),
    ],
)
def test_bad_arguments_say_what_is_accepted(options, message):
    with pytest.raises(ValueError, match=message):
        BatchController(None, **({"batch_size": 8, "max_batch_size": 64} | options))


def controller_at_work():
    controller = BatchController(NormTest(0.5), batch_size=8, max_batch_size=64)
    controller.update(KNOWN)
    controller.update(statistics_of(16, mean_sq_norm=math.nan))
    return controller


def test_a_saved_controller_goes_on_as_if_never_stopped():
    controller = controller_at_work()
    resumed = BatchController(NormTest(0.5), batch_size=8, max_batch_size=64)
    resumed.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    assert resumed.state_dict() == controller.state_dict()
    assert resumed.metrics() == controller.metrics()
    assert resumed.last_decision == controller.last_decision
    following = statistics_of(16, mean_sq_norm=1.5)
    assert resumed.update(following) == controller.update(following) == 22
    assert resumed.state_dict() == controller.state_dict()


def test_a_saved_controller_shrinks_no_further_than_the_first_one():
    controller = BatchController(
        Scripted([40.0, 3.0]), batch_size=8, max_batch_size=64, allow_shrink=True
    )
    controller.update(statistics_of(8))
    resumed = BatchController(Scripted([3.0]), batch_size=2, max_batch_size=64, allow_shrink=True)
    resumed.load_state_dict(controller.state_dict() | {"criterion": "Scripted(suggestions=[3.0])"})
    assert resumed.update(statistics_of(40)) == controller.update(statistics_of(40)) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criterion": "NormTest(eta=0.1)"}, r"NormTest\(eta=0.1\).*NormTest\(eta=0.5\)"),
        ({"criterion": None}, r"criterion=None.*NormTest\(eta=0.5\)"),
        ({"batch_size": 128}, "128 must lie between.*8 and.*64"),
        ({"batch_size": 4}, "4 must lie between.*8 and.*64"),
        ({"batch_size": "16"}, "saved batch_size must be an integer of at least 1, got '16'"),
        ({"steps": -1}, "saved steps must be an integer of at least 0, got -1"),
        ({"last_decision": {"size": 1}}, "saved last_decision is .*the fields of a Decision"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    controller = controller_at_work()
    before = controller.state_dict()
    with pytest.raises(ValueError, match=message):
        controller.load_state_dict(before | change)
    with pytest.raises(
        ValueError, match="not a state of BatchController: it lacks gradient, steps"
    ):
        controller.load_state_dict(
            {key: value for key, value in before.items() if key not in ("steps", "gradient")}
        )
    assert controller.state_dict() == before
    assert controller.batch_size == 16


class Alternating:
    """A rule that reads every other step and asks for the samples of all so far."""

    name = "alternating"
    needs_variance = False
    needs_inner_products = False

    def __init__(self):
        self.told = []

    def wants_statistics(self, samples):
        return len(self.told) % 2 == 0

    def count(self, samples):
        self.told.append(("counted", samples))

    def __call__(self, statistics):
        self.told.append(("measured", statistics.batch_size))
        size = float(sum(samples for _, samples in self.told))
        return Decision(self.name, size, size <= statistics.batch_size, {})

    def state_dict(self):
        return {"told": list(self.told)}

    def load_state_dict(self, state):
        self.told = list(state["told"])


def test_a_rule_is_told_of_every_step_once():
    rule = Alternating()
    controller = BatchController(rule, batch_size=8, max_batch_size=1000)
    assert controller.wants_test()
    assert controller.update(statistics_of(8)) == 8
    assert not controller.wants_test()
    assert controller.step(8) == 8
    # A step that was measured although nobody asked, and one that says nothing.
    assert controller.update(statistics_of(5)) == 21
    assert controller.update(statistics_of(21, math.nan)) == 21
    assert rule.told == [("measured", 8), ("counted", 8), ("measured", 5), ("counted", 21)]


def test_what_a_rule_remembers_is_part_of_the_state():
    saved = BatchController(Alternating(), batch_size=8, max_batch_size=1000)
    saved.step(8)
    other = BatchController(Alternating(), batch_size=8, max_batch_size=1000)
    other.load_state_dict(saved.state_dict())
    assert not other.wants_test()
    assert other.criterion.told == [("counted", 8)]
