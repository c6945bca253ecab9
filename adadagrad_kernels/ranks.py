"""The processes that train together, and the few numbers that they exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adadagrad_kernels import errors
from adadagrad_kernels.errors import UnsupportedModelError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: Bytes of an error's message that go to the other ranks.
_MESSAGE_BYTES = 4096


def world_size() -> int:
    """Number of processes of torch.distributed; 1 if it does not run."""
    runs = dist.is_available() and dist.is_initialized()
    return dist.get_world_size() if runs else 1


def own_rank() -> int:
    """The rank of this process in torch.distributed; 0 if it does not run."""
    return dist.get_rank() if world_size() > 1 else 0


@dataclass(eq=False)
class Agreement:
    """The latest decision of the ranks behind a record, compared with their next numbers.

    Attributes:
        is_whole: whether the record has the samples of all ranks.
        decided: size, samples and steps after the latest decision, or None before it.
    """

    is_whole: bool = True
    decided: tuple[int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class Ranks:
    r"""The processes that share a batch, and how their gradients are reduced.

    Each process has samples of its own, and a wrapper such as DistributedDataParallel averages the
    gradients in the backward pass. Let :math:`h_i` be what sample i adds to the gradient of its own
    rank, and :math:`D` the divisor. With n samples over all ranks,

    .. math:: g_i = \frac{n}{D} h_i, \qquad \frac{1}{n} \sum_i g_i = \texttt{.grad}.

    So ranks may have unequal shares, if each weighs its mean loss by :math:`n_r D / n`.

    Args:
        data: the process group over which the batch is shared; None for all processes.
        gradient_divisor: D, by which the sum over the ranks is divided; None for the number of
            those with samples of their own, as in DistributedDataParallel and ``fully_shard``; 1 if
            gradients are summed.

    Raises:
        ValueError: for a divisor that is not positive.
        RuntimeError: where torch.distributed does not run.

    Example:
        >>> import torch.distributed as dist
        >>> from adadagrad_kernels.distributed import Ranks
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> Ranks().size
        1
        >>> dist.destroy_process_group()
    """

    data: ProcessGroup | None = None
    gradient_divisor: float | None = None
    agreement: Agreement = field(default_factory=Agreement, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                "Ranks() needs torch.distributed, which does not run here; call "
                "torch.distributed.init_process_group() first, or leave ranks= out"
            )
        if self.gradient_divisor is not None and not self.gradient_divisor > 0.0:
            raise ValueError(
                f"gradient_divisor is {self.gradient_divisor}; accepted is a positive number, by "
                "which the sum of the ranks' gradients is divided, or None for their number"
            )
        if self.rank < 0:
            raise ValueError("this process is not in the group data; pass a group that it is in")

    @property
    def size(self) -> int:
        """Number of ranks."""
        return dist.get_world_size(self.data)

    @property
    def rank(self) -> int:
        """This process among them."""
        return dist.get_rank(self.data)

    @property
    def device(self) -> torch.device:
        """Where its backend takes numbers that are on no device yet."""
        if dist.get_backend(self.data) == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    @property
    def divisor(self) -> float:
        """D."""
        return float(self.size) if self.gradient_divisor is None else self.gradient_divisor

    def gather(
        self, numbers: Sequence[float], device: torch.device, error: Exception | None = None
    ) -> list[list[float]]:
        """The numbers of every rank, in one all_gather; an error on one rank is raised on all.

        Args:
            numbers: equally many on every rank, also if ``error`` makes them meaningless.
            device: where the group's backend needs them.
            error: why this rank has no numbers, or None.

        Raises:
            Exception: the error of this rank, or that of the first that has one.
            ValueError: if the latest decisions of the ranks differ.
        """
        decided = self.agreement.decided
        known = [-1.0] * 3 if decided is None else [float(number) for number in decided]
        mine = [float(error is not None), *known, *numbers]
        rows = self._all(torch.tensor(mine, dtype=torch.float64, device=device))
        every: list[list[float]] = torch.stack(rows).tolist()
        failed = [rank for rank, row in enumerate(every) if row[0]]
        if failed:
            self._raise(error, failed, device)
        decisions = {rank: row[1:4] for rank, row in enumerate(every) if row[1] >= 0.0}
        if len({tuple(numbers) for numbers in decisions.values()}) > 1:
            said = "; ".join(
                f"rank {rank}: batch_size {size:.0f}, samples_seen {seen:.0f}, steps {steps:.0f}"
                for rank, (size, seen, steps) in decisions.items()
            )
            raise ValueError(
                f"the controllers of the ranks differ ({said}). Ways out: the same settings "
                "and the same state_dict on every rank; update() with the pooled record and the "
                "samples of all ranks, in every step"
            )
        return [row[4:] for row in every]

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        dist.all_reduce(tensor, group=self.data)
        return tensor

    def add_up_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each over all ranks, with one all_reduce per device and dtype."""
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for place, tensor in enumerate(tensors):
            kinds.setdefault((tensor.device, tensor.dtype), []).append(place)
        added = list(tensors)
        for places in kinds.values():
            flat = self.add_up(torch.cat([tensors[place].flatten() for place in places]))
            parts = torch.split(flat, [tensors[place].numel() for place in places])
            for place, part in zip(places, parts, strict=True):
                added[place] = part.view(tensors[place].shape)
        return added

    def _all(self, mine: Tensor) -> list[Tensor]:
        every = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(every, mine, group=self.data)
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of {self.size} did not get the numbers of the others: "
                "every rank must ask for statistics in the same steps, with the same settings, and "
                f"none may leave the loop early ({error})"
            ) from error
        return every

    def _raise(self, error: Exception | None, failed: list[int], device: torch.device) -> None:
        """Raise the error of one rank on all of them; on its own rank it keeps its traceback."""
        text = "" if error is None else f"{type(error).__name__}\n{error}"
        message = torch.zeros(_MESSAGE_BYTES, dtype=torch.uint8, device="cpu")
        given = text.encode(errors="replace")[:_MESSAGE_BYTES]
        if given:
            message[: len(given)] = torch.frombuffer(bytearray(given), dtype=torch.uint8)
        rows = self._all(message.to(device))
        if error is not None:
            raise error
        said = bytes(rows[failed[0]].cpu().tolist()).rstrip(b"\0").decode(errors="replace")
        kind, _, reason = said.partition("\n")
        raise _kind_of(kind)(f"rank {failed[0]}: {reason}")


def _kind_of(name: str) -> type[Exception]:
    """The class of an error by its name: one of this package's, ValueError, or RuntimeError."""
    known: Any = getattr(errors, name, None) or {"ValueError": ValueError}.get(name)
    return known if isinstance(known, type) else RuntimeError


def unwrapped(model: nn.Module) -> tuple[nn.Module, DistributedDataParallel | None]:
    """The module inside all wrappers, and the wrapper that reduces its gradients."""
    wrapper: DistributedDataParallel | None = None
    inside: Any = model
    while inside is not None:
        model = inside
        wrapper = model if isinstance(model, DistributedDataParallel) else wrapper
        # A compiled module runs the forwards of the module it was compiled from.
        inside = getattr(model, "_orig_mod", None)
        if isinstance(model, DistributedDataParallel):
            inside = model.module
    return model, wrapper


def own_agreement(ranks: Ranks | None) -> Agreement | None:
    """The agreement for a record of this process's samples; None without other processes."""
    if ranks is not None:
        return ranks.agreement
    return Agreement(is_whole=False) if world_size() > 1 else None


def require_all_ranks(agreement: Agreement | None, decides: str) -> None:
    """Refuse the record of one rank, where what is decided by it must be the same on all.

    Args:
        agreement: of the record.
        decides: what would differ, such as the batch size.

    Raises:
        ValueError: with the ways out.
    """
    if agreement is not None and not agreement.is_whole:
        raise ValueError(
            f"these statistics are of one rank's samples (ranks='local'), and every rank would "
            f"decide on {decides} of its own. Ways out: a source that pools, such as "
            "layer_statistics(DistributedDataParallel(model)); "
            "adadagrad_kernels.distributed.pool(statistics, Ranks()) in every step"
        )


def ranks_of_mesh(
    ranks: str | ProcessGroup | Ranks, mesh: Any, source: str, *, is_alone: bool
) -> Ranks:
    """The ranks that hold the parts of sharded parameters, and share the batch.

    Args:
        ranks: what the user asked for.
        mesh: of the parameters.
        source: its name, for messages.
        is_alone: whether the ranks of a mesh of one dimension share a batch of their own.

    Raises:
        ValueError: for the samples of one rank alone, and for ranks other than those of the mesh.
    """
    if isinstance(ranks, str) and ranks == "local":
        raise ValueError(
            f"ranks='local' was given to {source} for a model whose parameters are sharded over "
            f"{mesh.size()} ranks, none of which has a gradient of its own; accepted are 'auto', a "
            "process group or Ranks"
        )
    if isinstance(ranks, str) and ranks == "auto":
        if not (is_alone and mesh.ndim == 1) and mesh.size() != world_size():
            raise ValueError(
                f"the parameters are sharded over {mesh.size()} of {world_size()} ranks, on a mesh "
                f"of {mesh.ndim} dimensions; pass ranks=group to {source}, with a process group of "
                "just those ranks, if no others train the same model"
            )
        return Ranks(mesh.get_group() if mesh.ndim == 1 else None)
    found = resolved(ranks, None, source)
    assert found is not None
    if found.size != mesh.size():
        raise ValueError(
            f"ranks= has {found.size} processes, and the parameters are sharded over "
            f"{mesh.size()}; accepted are just those of the parameters' mesh"
        )
    return found


def require_whole_parameters(source: str, model: nn.Module) -> None:
    """Refuse parameters of which this process holds only a part.

    Raises:
        UnsupportedModelError: naming one.
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "to_local"):
            raise UnsupportedModelError(
                f"the parameter '{name}' is a {type(parameter).__name__}, of which this process "
                f"holds only a part (fully_shard, or a tensor-parallel plan), and {source} reads "
                "whole gradients. Ways out: layer_statistics, which measures models of "
                "fully_shard and of plans; DistributedDataParallel, if the model fits"
            )


def resolved(
    ranks: str | ProcessGroup | Ranks,
    wrapper: DistributedDataParallel | None,
    source: str,
    ways_out: str | None = None,
) -> Ranks | None:
    """The ranks whose samples a source pools; None for those of this process alone.

    Args:
        ranks: what the user asked for.
        wrapper: what reduces the model's gradients.
        source: its name, for messages.
        ways_out: of one that takes no wrapper.

    Raises:
        ValueError: for a model that nothing reduces, in a world above one; for no such ranks.
    """
    if isinstance(ranks, str) and ranks not in ("auto", "local"):
        raise ValueError(f"ranks must be 'auto', 'local', a process group or Ranks, got {ranks!r}")
    if isinstance(ranks, Ranks):
        return ranks
    if ranks == "local" or world_size() == 1:
        return None
    if ranks != "auto":
        return Ranks(ranks)  # type: ignore[arg-type]
    if wrapper is None:
        ways_out = ways_out or (
            f"pass the wrapper itself, {source}(DistributedDataParallel(model), ...); ranks=group, "
            "if something else reduces .grad in the backward pass"
        )
        raise ValueError(
            f"torch.distributed runs with {world_size()} ranks, and nothing tells {source} how "
            "they share the batch: it would see the samples of one rank alone, and the ranks would "
            f"decide differently. Ways out: {ways_out}; ranks='local' for the samples of this rank "
            "alone"
        )
    return Ranks(wrapper.process_group)
