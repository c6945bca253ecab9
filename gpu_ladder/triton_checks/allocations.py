"""Which memory torch gave away that nobody has written since."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators of torch that give memory nobody has written.
_EMPTY = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
#: Operators that change a tensor, but not its elements.
_METADATA = ("set_", "resize_", "as_strided_", "detach_", "squeeze_", "unsqueeze_", "t_",
             "transpose_")  # fmt: skip


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls `on_empty` and `on_write` for what torch allocates and writes inside the context."""

    def on_empty(self, name: str, tensor: Tensor) -> None:
        """A tensor was made whose elements hold nothing."""
        raise NotImplementedError

    def on_write(self, tensor: Tensor) -> None:
        """All elements of a tensor were written."""
        raise NotImplementedError

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        name = func._schema.name.rpartition("::")[2]
        if name in _EMPTY:
            self.on_empty(f"torch.{name}", result)
        elif func._schema.is_mutable and name not in _METADATA:
            for place, argument in enumerate(func._schema.arguments):
                given = args[place] if place < len(args) else named.get(argument.name)
                if argument.alias_info is None or not argument.alias_info.is_write:
                    continue
                for tensor in given if isinstance(given, list | tuple) else [given]:
                    if tensor is not None:
                        self.on_write(tensor)
        return result


class Allocations(Watch):  # type: ignore[no-untyped-call]
    """Allocations as a whole: one that is written in part counts as written."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._unwritten: dict[int, Tensor] = {}

    def on_empty(self, name: str, tensor: Tensor) -> None:
        """Keeps the tensor, so that its memory is not given away again."""
        self._unwritten[_storage(tensor)] = tensor

    def on_write(self, tensor: Tensor) -> None:
        """Counts all of its storage as written."""
        self.mark_written(tensor)

    def mark_written(self, tensor: Tensor) -> None:
        """Something other than torch has written the tensor."""
        self._unwritten.pop(_storage(tensor), None)

    def written(self, tensor: Tensor) -> bool:
        """Whether anything was written to the tensor's storage."""
        return _storage(tensor) not in self._unwritten


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
