"""A kind of what decides on sizes is a file and a line: the controller knows none of them."""

from __future__ import annotations

import ast
import inspect
import json

import pytest

from adadagrad_kernels.batching import (
    BatchController,
    MilestoneSchedule,
    PlateauSchedule,
    StepSchedule,
    controller,
    policies,
)
from adadagrad_kernels.batching.policies import BatchSizePolicy, policy_of
from adadagrad_kernels.criteria import CoordinateNormTest, Decision, GradientDiversity, NormTest
from adadagrad_kernels.statistics import GradientStatistics


def statistics_of(batch_size: int) -> GradientStatistics:
    return GradientStatistics(batch_size, mean_sq_norm=1.0, sum_sq_norms=9.0 * batch_size)


@pytest.mark.parametrize(
    ("given", "kind", "reads"),
    [
        (None, "FixedSize", False),
        (NormTest(eta=0.5), "CriterionPolicy", True),
        (GradientDiversity(0.1, 100), "RulePolicy", True),
        (StepSchedule(8, step_size=10), "SchedulePolicy", False),
        (PlateauSchedule(8), "SchedulePolicy", False),
    ],
    ids=["nothing", "a criterion", "a rule", "a schedule", "a plateau schedule"],
)
def test_every_kind_has_its_policy(given: object, kind: str, reads: bool) -> None:
    policy = policy_of(given)
    assert type(policy).__name__ == kind
    assert policy.given is given
    assert policy.reads_statistics is reads
    assert policy.wants(8) is reads


@pytest.mark.parametrize(
    "given",
    [8, "norm", lambda statistics: 8, object()],
    ids=["a number", "a name", "a function", "an object"],
)
def test_anything_else_is_refused(given: object) -> None:
    with pytest.raises(
        ValueError, match=r"accepted are a criterion .*, a BatchSizeSchedule, or No"
    ):
        BatchController(given, batch_size=8, max_batch_size=64)  # type: ignore[arg-type]


def test_the_controller_tells_no_kinds_apart() -> None:
    tree = ast.parse(inspect.getsource(controller))
    asked = [
        ast.unparse(node.args[1])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
    ]
    assert asked == ["Tensor"], "of the loss alone"


class Every:
    """Adds so many samples after every step, whatever the gradients are."""

    def __init__(self, samples: int) -> None:
        self.samples = samples


class EveryPolicy(BatchSizePolicy):
    """A kind that is in none of the package's files."""

    @classmethod
    def takes(cls, given: object) -> bool:
        return isinstance(given, Every)

    def __init__(self, given: Every) -> None:
        super().__init__(given)
        self.steps = 0

    @property
    def settings(self) -> str:
        return f"every {self.given.samples}"

    def scheduled(self, samples_seen, *, least, largest, round_to):
        self.steps += 1
        return 8 + self.steps * self.given.samples

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def test_a_kind_of_ones_own_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_KINDS", (EveryPolicy, *policies._KINDS))
    controller = BatchController(Every(3), batch_size=8, max_batch_size=16)  # type: ignore[arg-type]
    assert not controller.wants_test()
    assert [controller.step(controller.batch_size) for _ in range(4)] == [11, 14, 16, 16]
    saved = json.loads(json.dumps(controller.state_dict()))
    other = BatchController(Every(3), batch_size=8, max_batch_size=64)  # type: ignore[arg-type]
    other.load_state_dict(saved)
    assert other.step(16) == 8 + 5 * 3
    with pytest.raises(ValueError, match="criterion='every 3'"):
        BatchController(Every(4), batch_size=8, max_batch_size=64).load_state_dict(saved)  # type: ignore[arg-type]


def test_another_criterion_may_take_the_place_of_the_first() -> None:
    controller = BatchController(MilestoneSchedule({0: 8, 16: 16}), max_batch_size=64)
    assert [controller.step(8), controller.step(8)] == [8, 16]
    controller.criterion = NormTest(eta=0.5)
    assert controller.wants_test()
    assert controller.update(statistics_of(16)) > 16
    assert isinstance(controller.last_decision, Decision)
    controller.criterion = None
    assert not controller.wants_test()


def test_another_criterion_must_fit_the_controller() -> None:
    controller = BatchController(NormTest(0.5), batch_size=8, max_batch_size=64, smoothing=0.5)
    before = controller.criterion
    with pytest.raises(ValueError, match="which coordinate_norm_test reads: use smoothing=0"):
        controller.criterion = CoordinateNormTest(0.5)
    with pytest.raises(ValueError, match="accepted are a criterion"):
        controller.criterion = "norm"  # type: ignore[assignment]
    assert controller.criterion is before


def test_schedules_take_evaluations_and_most_read_none() -> None:
    schedule = StepSchedule(8, step_size=10)
    schedule.observe(1.0)
    schedule.hold(16)
    assert schedule.state_dict() is None
    assert schedule(0) == 8
