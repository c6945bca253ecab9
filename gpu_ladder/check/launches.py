"""How a launch is described: by a function `launches` in a file of Python."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


class DescriptionError(ValueError):
    """What is to be checked is described wrongly; the message says what is accepted."""


@dataclass(frozen=True)
class Output:
    """Memory that holds nothing until the kernel writes it: reading it before is found.

    Args:
        shape: a number or a tuple.
        dtype: NumPy's, or torch's, which makes it a tensor.
    """

    shape: int | tuple[int, ...]
    dtype: Any


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel. `launches` is called again for every run, so arrays are fresh.

    Args:
        kernel: its name; in CUDA any expression for it, such as ``scale<float>``.
        grid: how many blocks, or programs of Triton, in up to three dimensions.
        arguments: by name. In CUDA they are passed in this order, and the names are for messages;
            in Triton they are those of the parameters, ``tl.constexpr`` ones too. NumPy arrays and
            CPU tensors are memory that the kernel may touch, `Output` memory that it has to write.
            Allocations begin at multiples of 256 bytes, as on a device; views keep their offset.
        block: in CUDA how many threads, in up to three dimensions.
        shared_bytes: in CUDA, dynamic shared memory.
        options: of Triton's compiler, such as ``{"num_warps": 8}``.
        expected: what arguments hold after the launch, by name.
        tolerance: |given - expected| <= tolerance * (1 + |expected|), in every element.
        vector_bytes: finds it where less than nine tenths of the bytes of global memory are moved
            by accesses of so many bytes a thread or more.
        efficiency: finds it where the fewest sectors that hold what was asked for, over those that
            were moved, are less than this.
        name: for messages; the kernel's by default.
    """

    kernel: str
    grid: int | Sequence[int]
    arguments: Mapping[str, Any]
    block: int | Sequence[int] | None = None
    shared_bytes: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-5
    vector_bytes: int | None = None
    efficiency: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.expected) - set(self.arguments))
        if unknown:
            raise DescriptionError(
                f"{self.kernel}: something is expected of {', '.join(unknown)}, which is no "
                f"argument; those are {', '.join(self.arguments)}"
            )

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.name or self.kernel


def three(sizes: int | Sequence[int] | None, what: str) -> tuple[int, int, int]:
    """One to three sizes as three."""
    given = (sizes,) if isinstance(sizes, int) else tuple(sizes or ())
    if not 1 <= len(given) <= 3 or any(size < 1 for size in given):
        raise DescriptionError(f"{what} is {sizes}; accepted are one to three sizes of at least 1")
    x, y, z = (*given, 1, 1)[:3]
    return int(x), int(y), int(z)


def load(path: Path) -> ModuleType:
    """The file as a module; what lies beside it can be imported from it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise DescriptionError(f"{path} is no file of Python")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def described(module: ModuleType, kernel: str | None = None) -> list[Launch]:
    """The launches that a module describes, of one kernel where it is named.

    Raises:
        DescriptionError: where there are none.
    """
    function = getattr(module, "launches", None)
    if function is None:
        raise DescriptionError(
            f"{module.__file__} has no function launches(); it has to give gpu_ladder.check.Launch"
        )
    found = list(function())
    wrong = [one for one in found if not isinstance(one, Launch)]
    if wrong:
        raise DescriptionError(
            f"launches() gave {wrong[0]!r}; accepted are gpu_ladder.check.Launch"
        )
    chosen = [one for one in found if kernel is None or one.kernel == kernel]
    if not chosen:
        names = ", ".join(sorted({one.kernel for one in found})) or "none"
        raise DescriptionError(
            f"launches() has no launch of {kernel or 'anything'}; it has {names}"
        )
    return chosen
