"""A batch size for every parameter group, against loops that keep every gradient in float64."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from adadagrad_kernels import (
    AugmentedInnerProductTest,
    BatchController,
    CoordinateNormTest,
    GradientStatistics,
    GroupBatches,
    MissingStatisticError,
    NormTest,
    layer_statistics,
)
from adadagrad_kernels.batching import AdaScale, BatchSizeLR

MICRO = 4


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 1)
    ).double()


def data(passes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(passes, MICRO, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.randn(passes, MICRO, 1, generator=generator, dtype=torch.float64)


def adam(model):
    """Three groups, each with a rate of its own."""
    members = [model[0:2], model[3], model[4]]
    names = ("first", "second", "head")
    groups = [
        {"params": list(part.parameters()), "lr": 0.01 * (k + 1), "name": name}
        for k, (name, part) in enumerate(zip(names, members, strict=True))
    ]
    return torch.optim.Adam(groups)


def fixed(size):
    return BatchController(None, batch_size=size, max_batch_size=size)


def per_sample_rows(model, inputs, targets, parameters):
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        grads = torch.autograd.grad(mse_loss(model(x[None]), y[None]), parameters)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(rows)


def run(model, optimizer, batches, passes, start=0, norms=True):
    """The names that were due in every pass."""
    inputs, targets = data(start + passes)
    found = []
    with layer_statistics(model, groups=batches.groups) as recorder:
        for x, y in zip(inputs[start:], targets[start:], strict=True):
            optimizer.zero_grad()
            mse_loss(model(x), y).backward()
            record = recorder.statistics()
            found.append(batches.collect(*((record,) if norms else (None, MICRO))))
            optimizer.step()
    return found


def test_each_group_steps_along_the_mean_of_all_its_samples():
    sizes = (MICRO, 2 * MICRO, 3 * MICRO)
    ours, theirs = network(), network()
    optimizer = adam(ours)
    batches = GroupBatches(optimizer, [fixed(size) for size in sizes])
    due = run(ours, optimizer, batches, 12)
    assert due[:3] == [["first"], ["first", "second"], ["first", "head"]]
    assert [batches.controllers[k].steps for k in range(3)] == [12, 6, 4]

    parts = [
        list(theirs[0:2].parameters()),
        list(theirs[3].parameters()),
        [*theirs[4].parameters()],
    ]
    alone = [torch.optim.Adam(part, lr=0.01 * (k + 1)) for k, part in enumerate(parts)]
    kept = [[] for _ in parts]
    for k, (x, y) in enumerate(zip(*data(12), strict=True), start=1):
        gradients = [torch.autograd.grad(mse_loss(theirs(x), y), part) for part in parts]
        for place, every in enumerate((1, 2, 3)):
            kept[place].append(gradients[place])
            if k % every == 0:
                for p, *grads in zip(parts[place], *kept[place], strict=True):
                    p.grad = torch.stack(grads).mean(0)
                alone[place].step()
                kept[place].clear()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_a_group_that_steps_every_time_steps_as_without():
    """Bit for bit."""
    ours, theirs = network(), network()
    optimizer, plain = adam(ours), adam(theirs)
    batches = GroupBatches(optimizer, [fixed(MICRO) for _ in range(3)])
    for x, y in zip(*data(5), strict=True):
        for model, steps in ((ours, optimizer), (theirs, plain)):
            steps.zero_grad()
            mse_loss(model(x), y).backward()
            if model is ours:
                batches.collect(None, MICRO)
            steps.step()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_passes_of_unequal_sizes_weigh_their_samples():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = GroupBatches(optimizer, [fixed(7)])
    inputs, targets = data(2)
    inputs, targets = inputs.flatten(0, 1), targets.flatten(0, 1)
    for rows in (slice(0, 5), slice(5, 7)):
        optimizer.zero_grad()
        mse_loss(model(inputs[rows]), targets[rows]).backward()
        due = batches.collect(None, rows.stop - rows.start)
    assert due == ["group 0"]
    found = [p.grad for p in model.parameters()]
    loss = mse_loss(model(inputs[:7]), targets[:7])
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    for ours, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_each_controller_decides_on_the_norms_of_its_group():
    """T from the gradients of the samples, each at the parameters of its own pass."""
    model = network()
    optimizer = adam(model)

    def tests(eta, size):
        return BatchController(NormTest(eta), batch_size=size, max_batch_size=10**6)

    controllers = [tests(0.9, MICRO), tests(0.7, 2 * MICRO), tests(1.0, 3 * MICRO)]
    batches = GroupBatches(optimizer, controllers)
    inputs, targets = data(3)
    members = [batches.groups["second"], batches.groups["head"]]
    rows = [[], []]
    for x, y in zip(inputs, targets, strict=True):
        for place, part in enumerate(members):
            rows[place].append(per_sample_rows(model, x, y, part))
        optimizer.zero_grad()
        with layer_statistics(model, groups=batches.groups) as recorder:
            mse_loss(model(x), y).backward()
            batches.collect(recorder.statistics())
        optimizer.step()
    for controller, eta, seen in zip(
        controllers[1:], (0.7, 1.0), (rows[0][:2], rows[1][:3]), strict=True
    ):
        all_rows = torch.cat(seen)
        size = all_rows.var(0).sum() / (eta**2 * all_rows.mean(0).square().sum())
        assert controller.last_decision.batch_size == pytest.approx(size.item(), rel=1e-10)
        assert controller.samples_seen == len(all_rows)
        assert controller.batch_size >= len(all_rows)


def test_the_record_has_the_norms_of_every_group():
    model = network()
    optimizer = adam(model)
    batches = GroupBatches(optimizer, [fixed(MICRO) for _ in range(3)])
    inputs, targets = data(2)
    with layer_statistics(model, groups=batches.groups) as recorder:
        for x, y in zip(inputs, targets, strict=True):  # two micro-batches of one step
            (mse_loss(model(x), y) / 2).backward()
        record = recorder.statistics()
    for name, part in batches.groups.items():
        rows = per_sample_rows(model, inputs.flatten(0, 1), targets.flatten(0, 1), part)
        found = record.by_group[name]
        torch.testing.assert_close(found.sq_norms, rows.square().sum(1), rtol=1e-10, atol=0.0)
        assert found.mean_sq_norm == pytest.approx(rows.mean(0).square().sum().item())
        assert found.variance_norm == pytest.approx(rows.var(0).sum().item())
    total = sum(each.sum_sq_norms for each in record.by_group.values())
    assert total == pytest.approx(record.sum_sq_norms)
    assert record.merge(record).by_group is None, "their means are not known together"


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_resumed_run_is_the_same_bit_for_bit(stop):
    """Also in the middle of what a group adds up."""

    def made():
        model = network()
        optimizer = adam(model)
        controllers = [
            BatchController(NormTest(eta), batch_size=size, max_batch_size=64, round_to=MICRO)
            for eta, size in ((2.0, MICRO), (0.8, 2 * MICRO), (0.9, 3 * MICRO))
        ]
        return model, optimizer, GroupBatches(optimizer, controllers)

    model, optimizer, batches = made()
    run(model, optimizer, batches, stop)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (model, optimizer, batches)], file)
    expected = run(model, optimizer, batches, 9, start=stop)
    again = made()
    file.seek(0)
    for part, state in zip(again, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert run(*again, 9, start=stop) == expected
    for p, q in zip(model.parameters(), again[0].parameters(), strict=True):
        assert torch.equal(p, q)
    assert again[2].metrics() == batches.metrics()
    assert {"first/batch/global", "head/steps"} <= batches.metrics().keys()


def test_a_step_of_which_a_pass_was_not_measured_decides_nothing():
    model = network()
    optimizer = adam(model)
    controllers = [
        BatchController(NormTest(0.1), batch_size=2 * MICRO, max_batch_size=640) for _ in range(3)
    ]
    batches = GroupBatches(optimizer, controllers)
    assert batches.wants_test()
    run(model, optimizer, batches, 1)
    run(model, optimizer, batches, 1, start=1, norms=False)
    assert [(c.steps, c.last_decision, c.batch_size) for c in controllers] == [(1, None, 8)] * 3


def test_each_group_has_the_gain_of_its_own_size():
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [w]} for w in weights], lr=0.5)
    rate = BatchSizeLR(optimizer, "sqrt", batch_size=4)
    rate.update([4, 16])
    for weight in weights:
        weight.grad = torch.ones(1)
    optimizer.step()
    assert [w.item() for w in weights] == [-0.5, -1.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    again = BatchSizeLR(
        torch.optim.SGD([{"params": [w]} for w in weights], lr=0.5), "sqrt", batch_size=4
    )
    again.load_state_dict(rate.state_dict())
    again.optimizer.step()
    assert [w.item() for w in weights] == [-1.0, -2.0]
    rate.update(4)
    assert "gains" not in rate.state_dict()
    with pytest.raises(ValueError, match="got 3 batch sizes, and the optimizer has 2"):
        rate.update([4, 4, 4])
    alone = BatchSizeLR(torch.optim.SGD(weights, lr=0.5), "sqrt", batch_size=4)
    with pytest.raises(ValueError, match="groups=2"):
        alone.load_state_dict(again.state_dict())
    remembers = BatchSizeLR(torch.optim.SGD(weights, lr=0.5), AdaScale(batch_size=4), batch_size=4)
    with pytest.raises(ValueError, match="rules without memory"):
        remembers.update([4])


def test_the_guides_program_runs_as_printed():
    guide = Path(__file__).parents[2] / "docs" / "guide" / "batching.md"
    if not guide.exists():
        pytest.skip("no guide here: the tests run away from the sources")
    blocks = re.findall(r"^```python\n(.*?)^```$", guide.read_text(), re.DOTALL | re.MULTILINE)
    (program,) = [block for block in blocks if "GroupBatches" in block]
    names = {}
    exec(program, names)
    body, head = names["controllers"]
    assert body.batch_size == 8 < head.batch_size
    assert body.samples_seen == 256 >= head.samples_seen


def test_what_is_refused():
    model = network()
    optimizer = adam(model)
    with pytest.raises(ValueError, match="3 parameter groups, got 1 controllers"):
        GroupBatches(optimizer, [fixed(4)])
    with pytest.raises(ValueError, match="a controller was given twice"):
        GroupBatches(optimizer, [fixed(4)] * 3)
    for criterion in (AugmentedInnerProductTest(0.9, 5.0), CoordinateNormTest(0.5)):
        reads = BatchController(criterion, batch_size=4, max_batch_size=8)
        with pytest.raises(ValueError, match=r"the controller of second reads more than norms"):
            GroupBatches(optimizer, [fixed(4), reads, fixed(4)])
    batches = GroupBatches(optimizer, [fixed(4), fixed(8), fixed(8)])
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        batches.collect(None, 4)
    x, y = (each[0] for each in data(1))
    mse_loss(model(x), y).backward()
    before = [p.grad.clone() for p in model.parameters()]
    bare = GradientStatistics(4, 1.0, 9.0)
    with pytest.raises(MissingStatisticError, match=r"groups=GroupBatches\.groups"):
        batches.collect(bare)
    with pytest.raises(ValueError, match="no statistics, since the pass was not measured"):
        batches.collect(None)
    with pytest.raises(ValueError, match="are of the groups"):
        batches.collect(GradientStatistics(4, 1.0, 9.0, by_group={"other": bare}))
    nan = {name: bare for name in batches.names}
    with pytest.raises(ValueError, match="not finite"):
        batches.collect(GradientStatistics(4, float("nan"), 9.0, by_group=nan))
    with pytest.raises(ValueError, match="samples is 5, and the statistics are of 4"):
        batches.collect(GradientStatistics(4, 1.0, 9.0, by_group=nan), 5)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    state = batches.state_dict()
    with pytest.raises(ValueError, match="names="):
        batches.load_state_dict({**state, "names": ["a", "b", "c"]})
    wrong = [{**seen, "sums": [torch.zeros(2)]} for seen in state["pending"]]
    with pytest.raises(ValueError, match=r"sums of the shapes"):
        batches.load_state_dict({**state, "pending": wrong})


def test_groups_that_the_layers_cannot_tell_apart_are_refused():
    model = network()
    head = list(model[4].parameters())
    rest = [p for p in model.parameters() if all(p is not q for q in head)]
    with pytest.raises(ValueError, match="no group; accepted"):
        layer_statistics(model, groups={})
    with pytest.raises(
        ValueError, match=r"\['4.weight', '4.bias'\] are in training and in no group"
    ):
        layer_statistics(model, groups={"rest": rest})
    with pytest.raises(ValueError, match=r"'4.weight' is in the groups 'rest' and 'head'"):
        layer_statistics(model, groups={"rest": [*rest, head[0]], "head": head})
    with pytest.raises(ValueError, match="no parameter of the model"):
        layer_statistics(model, groups={"rest": [*rest, *head, torch.zeros(1)]})
    x, y = (each[0] for each in data(1))
    with layer_statistics(model, groups={"a": [*rest, head[1]], "b": head[:1]}) as recorder:
        mse_loss(model(x), y).backward()
        with pytest.raises(
            ValueError, match=r"layer '4' \(Linear\) measures its parameters together"
        ):
            recorder.statistics()
