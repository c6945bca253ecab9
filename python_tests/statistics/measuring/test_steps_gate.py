"""Which steps are measured: asked one by one, at the first forward pass of each."""

from __future__ import annotations

import torch
from support.layer_records import norms_of_one_step
from torch import Tensor, nn

from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.criteria import NormTest
from adadagrad_kernels.statistics import layer_statistics

B = 6


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_the_steps_to_measure_are_asked_for_one_by_one() -> None:
    """Asked at the first forward pass of each, with one answer for all of its micro-batches."""
    model, x = network(), normal(B, 4)
    expected, wanted = norms_of_one_step(model, x), True
    with layer_statistics(model, when=lambda: wanted) as recorder:
        for measured in [True, False, True]:
            wanted = measured
            model.zero_grad()
            for part in x.split(2):
                model(part).square().sum().backward()
            assert recorder.measures is measured
            record = recorder.statistics()
            assert (record is not None) is measured
            if record is not None:
                torch.testing.assert_close(record.sq_norms, expected)


def test_an_evaluation_does_not_settle_whether_a_step_is_measured() -> None:
    model, x = network(), normal(B, 4)
    wanted = False
    with layer_statistics(model, when=lambda: wanted) as recorder:
        with torch.no_grad():
            model(x)
        wanted = True
        model(x).square().sum().backward()
        assert recorder.statistics() is not None


def test_a_controller_says_which_steps_it_wants() -> None:
    """At the cap the layers run as they are; until then nothing differs."""
    sizes = []
    for when in (True, False):
        torch.manual_seed(0)
        model = network()
        controller = BatchController(
            NormTest(eta=0.3), batch_size=4, max_batch_size=48, test_interval=2
        )
        wanted = {"when": controller.wants_test} if when else {}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        used = []
        with layer_statistics(model, **wanted) as recorder:
            for _ in range(9):
                expected = controller.wants_test()
                used.append(controller.batch_size)
                optimizer.zero_grad()
                model(normal(controller.batch_size, 4)).square().mean().backward()
                record = recorder.statistics()
                optimizer.step()
                assert not when or (record is not None) is expected
                if record is None:
                    controller.step(used[-1])
                else:
                    controller.update(record)
        sizes.append(used)
    assert sizes[0] == sizes[1]
    assert sizes[0][0] == 4
    assert sizes[0][-1] == 48


def test_a_step_that_is_not_measured_may_end_without_being_asked_for_statistics() -> None:
    model, x = network(), normal(B, 4)
    expected, wanted = norms_of_one_step(model, x), False
    with layer_statistics(model, when=lambda: wanted) as recorder:
        for _ in range(3):
            model.zero_grad()
            model(x).square().sum().backward()
        wanted = True
        model.zero_grad()
        model(x).square().sum().backward()
        torch.testing.assert_close(recorder.statistics().sq_norms, expected)


def test_a_measured_step_stays_one_whatever_is_wanted_later() -> None:
    model, x = network(), normal(B, 4)
    expected, wanted = norms_of_one_step(model, x), True
    with layer_statistics(model, when=lambda: wanted) as recorder:
        model(x[:2]).square().sum().backward()
        wanted = False
        model(x[2:]).square().sum().backward()
        torch.testing.assert_close(recorder.statistics().sq_norms, expected)
        assert not recorder.measures
