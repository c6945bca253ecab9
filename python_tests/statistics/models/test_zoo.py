"""A zoo of models: a measured step is the plain step, and its record that of samples alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.zoo import ZOO
from support.zoo.entry import T, rows
from support.zoo.passes import PASSES, Counts
from torch import nn

from adadagrad_kernels.statistics import layer_statistics

# Where bags begin makes no sense with the first exchanged.
pytestmark = pytest.mark.filterwarnings("ignore:Bag could not be asked")


def test_the_zoo_is_large() -> None:
    assert len(ZOO) >= 60


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("name", ZOO)
def test_as_samples_alone(name: str, shadow: bool) -> None:
    """At batches of one, two, five, and as many as there are positions."""
    entry = ZOO[name]
    for samples in (1, 2, 5, T):
        model = entry.build().double()
        inputs = _double(entry.inputs(samples))
        found = entry.check(model, inputs, shadow=shadow)
        assert found.ok, f"\n{found}"


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].autocast])
def test_under_autocast(name: str) -> None:
    """Loss, outputs and ``.grad`` are those of the plain step, and the rest is near.

    How near depends on what bfloat16 loses of a draw, and so on the processor: a wrong number is
    wrong in every one of three.
    """
    entry = ZOO[name]

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        wide = next(model.parameters()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16, enabled=not wide):
            return entry.loss(model, batch)

    try:
        loss(entry.build(), entry.inputs(T))
    except RuntimeError as error:
        if "could not create a primitive" not in str(error):
            raise
        pytest.skip(f"without us, torch cannot run it on this processor: {error}")
    draws = []
    for _ in range(3):
        found = entry.check(entry.build(), entry.inputs(T), loss=loss, rtol=0.1)
        errors = {(row.quantity, row.expected): row.error for row in found.rows}
        for quantity in ("loss", "outputs", ".grad"):
            assert errors.get((quantity, "the plain step"), 0.0) < 0.01, f"\n{found}"
        if found.ok:
            return
        draws.append(str(found))
    raise AssertionError("\n".join(draws))


@pytest.mark.parametrize("name", ZOO)
def test_layers_in_another_order(name: str) -> None:
    """Nothing depends on the order in which a model has got its parts."""
    entry = ZOO[name]
    model = entry.build().double()
    for module in model.modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList):
            parts = dict(reversed(list(module._modules.items())))
            module._modules.clear()
            module._modules.update(parts)
    inputs = _double(entry.inputs(T))
    found = entry.check(model, inputs)
    assert found.ok, f"\n{found}"


def test_counters_and_hooks_count_one_step() -> None:
    """What a model and its hooks count, keep and draw is that of one plain step."""
    model = PASSES["counters"].build()
    seen: list[int] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(len(output)))
    with layer_statistics(model) as recorder:
        model(rows(4)).square().mean().backward()
        recorder.statistics()
    counts = model[1]
    assert isinstance(counts, Counts)
    assert (counts.calls, counts.seen, float(counts.total), seen) == (1, [4], 1.0, [4])


def _double(inputs: Any) -> Any:
    from adadagrad_kernels.statistics.contents import Contents

    contents = Contents.of(inputs)
    return contents.replaced([t.double() if t.is_floating_point() else t for t in contents.tensors])
