"""How often the host waits for a device in a step with statistics: not once more for more layers.

Counted on the CPU: what would wait are operators that read a number, and tensors brought to the
host. Questions of a CPU alone (whether indices are in range) are not among them.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from adadagrad_kernels.statistics import layer_statistics

#: Operators that give the host a number, or a shape that depends on numbers.
READING = {
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.equal,
    torch.ops.aten.nonzero,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten._unique2,
}
#: Methods that bring a tensor to the host.
BRINGING = ("cpu", "tolist", "numpy")


class Waits(TorchDispatchMode):
    """Counts by the place in the package that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def note(self, what: str) -> None:
        """Count a wait, at the innermost line of the package."""
        frames = [f for f in traceback.extract_stack() if "adadagrad_kernels" in f.filename]
        assert frames, f"{what} outside of the package"
        self.places[f"{frames[-1].filename.rpartition('/')[2]}: {frames[-1].line}"] += 1

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        masks = [i for a in args if isinstance(a, list) for i in a if isinstance(i, Tensor)]
        if func.overloadpacket in READING or any(i.dtype == torch.bool for i in masks):
            self.note(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Counts while it is entered; of empty tensors, which lie on the host, nothing."""
    mode = Waits()
    for name in BRINGING:
        original = getattr(Tensor, name)

        def bring(tensor: Tensor, *given: Any, original: Any = original, name: str = name) -> Any:
            if tensor.numel():
                mode.note(f"Tensor.{name}")
            return original(tensor, *given)

        monkeypatch.setattr(Tensor, name, bring)
    return mode


def _model(layers: int) -> nn.Module:
    block = (nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU(), nn.Conv1d(4, 4, 3, 1, 1),
                           nn.GroupNorm(2, 4)) for _ in range(layers))  # fmt: skip
    return nn.Sequential(*block, nn.Flatten(), nn.Linear(24, 3))


def _counted(waits: Waits, model: nn.Module, **asked: bool) -> Counter[str]:
    """Of a step of a training that is under way; the first asks more of the model."""
    inputs, targets = torch.randn(5, 4, 6), torch.randint(3, (5,))
    with layer_statistics(model, **asked) as recorder:
        for step in range(3):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            waits.places.clear()
            if step < 2:
                loss.backward()
                recorder.statistics()
                continue
            with waits:
                loss.backward()
                assert recorder.statistics() is not None
    return Counter(waits.places)


@pytest.mark.parametrize(
    ("asked", "most"),
    [({}, 2), ({"variance": True}, 2), ({"inner_products": True}, 3), ({"shadow": True}, 5)],
    ids=["norms", "variance", "inner products", "shadow"],
)
def test_waits_do_not_grow_with_the_layers(waits: Waits, asked: dict[str, bool], most: int) -> None:
    """Once for gradients that may have changed, once for the sums of the record; once more for the
    products' sum, and where autograd computed the gradients, which are then compared.
    """
    few, many = (_counted(waits, _model(layers), **asked) for layers in (1, 4))
    assert few == many
    assert sum(many.values()) == most, many


def test_a_wait_is_counted(waits: Waits) -> None:
    from adadagrad_kernels.statistics.sums import gathered_on_cpu

    with waits:
        gathered_on_cpu([torch.ones(()), torch.zeros(())])
    assert list(waits.places.values()) == [1], "one for both"
