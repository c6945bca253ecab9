"""How often the host waits for a device in a step with statistics: not once more for more layers.

Counted on the CPU: what would wait are operators that read a number, and tensors brought to the
host. Questions of a CPU alone (whether indices are in range) are not among them.
"""

from __future__ import annotations

import contextlib
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
#: Operators that do so if an index is a mask.
INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}
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
        indices = args[1] if func.overloadpacket in INDEXING else ()
        masked = any(i is not None and i.dtype == torch.bool for i in indices)
        if func.overloadpacket in READING or masked:
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


class Bags(nn.Module):
    """Bags of several lengths in every layer."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(7, 3) for _ in range(layers))

    def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
        return torch.stack([bag(words, offsets) for bag in self.bags]).sum(0)


def _blocks(layers: int) -> nn.Module:
    block = (nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU(), nn.Conv1d(4, 4, 3, 1, 1),
                           nn.GroupNorm(2, 4)) for _ in range(layers))  # fmt: skip
    return nn.Sequential(*block, nn.Flatten(), nn.Linear(24, 3))


def _images() -> tuple[Tensor, ...]:
    return (torch.randn(5, 4, 6),)


def _bags() -> tuple[Tensor, ...]:
    return torch.randint(7, (13,)), torch.tensor([0, 2, 2, 6, 7])


def _counted(
    waits: Waits,
    model: nn.Module,
    given: tuple[Tensor, ...],
    *,
    micro_batches: int = 1,
    set_to_none: bool = True,
    **asked: bool,
) -> Counter[str]:
    """Of a step of a training that is under way; the first asks more of the model."""
    targets = torch.randint(3, (5,))
    with layer_statistics(model, **asked) as recorder:
        for step in range(3):
            model.zero_grad(set_to_none)
            waits.places.clear()
            with waits if step == 2 else contextlib.nullcontext():
                for _ in range(micro_batches):
                    nn.functional.cross_entropy(model(*given), targets).backward()
                assert recorder.statistics() is not None
    return Counter(waits.places)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"variance": True},
        {"inner_products": True},
        {"shadow": True},
        {"micro_batches": 3},
        {"set_to_none": False},
    ],
    ids=["norms", "variance", "inner products", "shadow", "micro-batches", "gradients kept"],
)
def test_a_step_waits_once(waits: Waits, asked: dict[str, Any]) -> None:
    """For the sums of the record, with which all checks of the gradients are read."""
    few, many = (_counted(waits, _blocks(layers), _images(), **asked) for layers in (1, 4))
    assert few == many
    assert sum(many.values()) == 1, many


@pytest.mark.filterwarnings("ignore:Bags could not be asked")
def test_bags_of_different_lengths_do_not_wait(waits: Waits) -> None:
    many = _counted(waits, Bags(3), _bags(), inner_products=True)
    assert sum(many.values()) == 1, many


def test_a_gradient_that_a_hook_copies_does_not_wait(waits: Waits) -> None:
    model = _blocks(2)
    for parameter in model.parameters():
        parameter.register_hook(torch.clone)
    many = _counted(waits, model, _images())
    assert sum(many.values()) == 1, many


def test_a_wait_is_counted(waits: Waits) -> None:
    from adadagrad_kernels.statistics.sums import on_host

    with waits:
        on_host([torch.ones(()), torch.zeros(3)])
    assert list(waits.places.values()) == [1], "one for both"
