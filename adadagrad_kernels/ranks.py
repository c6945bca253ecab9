"""The processes that train together, and the few numbers that they exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from adadagrad_kernels.errors import class_named
from adadagrad_kernels.stages import Stages, device_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

if dist.is_available():
    # Its defaults keep for good the group that is there when it is first imported, which
    # DistributedDataParallel does. That group's threads then outlive destroy_process_group, and one
    # that lets go of a tensor as the interpreter ends aborts the process.
    import torch.distributed.nn.functional

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
        stages: of a pipeline, each of which has the gradients and variances of its own parameters;
            None where every rank has those of all.
    """

    is_whole: bool = True
    decided: tuple[int, int, int] | None = None
    stages: Stages | None = None


@dataclass(frozen=True, eq=False)
class Ranks:
    r"""The processes that share a batch, and how their gradients are reduced.

    Each process has samples of its own, and a wrapper such as DistributedDataParallel averages the
    gradients in the backward pass. Let :math:`h_i` be what sample i adds to the gradient of its own
    rank, and :math:`D` the divisor. With n samples over all ranks,

    .. math:: g_i = \frac{n}{D} h_i, \qquad \frac{1}{n} \sum_i g_i = \texttt{.grad}.

    So ranks may have unequal shares, if each weighs its mean loss by :math:`n_r D / n`.

    In a pipeline each process has some of the layers, its stage, and those of one pipeline have the
    same samples. What samples add up to over the parameters is added up over the stages.

    Args:
        data: the process group over which the batch is shared; None for all processes. In a
            pipeline: the processes with the same stage, which wrap it together; None for those of
            DistributedDataParallel or ``fully_shard`` around it, or for a single pipeline.
        pipeline: the process group of the stages, in their order, for ``layer_statistics`` of a
            stage; None without a pipeline.
        gradient_divisor: D, by which the sum over the ranks is divided; None for the number of
            those with samples of their own, as in DistributedDataParallel and ``fully_shard``,
            times that of the micro-batches, where a pipeline's schedule divides by them
            (``scale_grads``); 1 if gradients are summed.

    Raises:
        ValueError: for a divisor that is not positive, and groups without this process.
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
    _: KW_ONLY
    pipeline: ProcessGroup | None = None
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
        self.agreement.stages = None if self.pipeline is None else Stages(self.pipeline)
        if self.rank < 0:
            raise ValueError("this process is not in the group data; pass a group that it is in")
        if self.stages is not None and self.stages.own < 0:
            raise ValueError(
                "this process is not in the group pipeline; pass the group of the stages that it "
                "is in"
            )

    @property
    def stages(self) -> Stages | None:
        """Of the pipeline, or None."""
        return self.agreement.stages

    @property
    def _is_alone(self) -> bool:
        """Whether no other process has this stage."""
        return self.data is None and self.pipeline is not None

    @property
    def size(self) -> int:
        """Number of ranks, those of one stage."""
        return 1 if self._is_alone else dist.get_world_size(self.data)

    @property
    def rank(self) -> int:
        """This process among them."""
        return 0 if self._is_alone else dist.get_rank(self.data)

    def name_of(self, place: int) -> str:
        """That of a process, by the place of its numbers."""
        if self.stages is None:
            return f"rank {place}"
        stage, rank = divmod(place, self.size)
        return f"stage {stage}" if self.size == 1 else f"rank {rank} of stage {stage}"

    @property
    def device(self) -> torch.device:
        """Where its backend takes numbers that are on no device yet."""
        return device_of(self.pipeline if self._is_alone else self.data)

    @property
    def divisor(self) -> float:
        """D."""
        return float(self.size) if self.gradient_divisor is None else self.gradient_divisor

    def gather(
        self, numbers: Sequence[float], device: torch.device, error: Exception | None = None
    ) -> list[list[float]]:
        """The numbers of every rank, in one all_gather; an error on one rank is raised on all.

        In a pipeline those of the stages follow one another, from a second all_gather.

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
                f"{self.name_of(place)}: batch_size {size:.0f}, samples_seen {seen:.0f}, "
                f"steps {steps:.0f}"
                for place, (size, seen, steps) in decisions.items()
            )
            raise ValueError(
                f"the controllers of the ranks differ ({said}). Ways out: the same settings "
                "and the same state_dict on every rank; update() with the pooled record and the "
                "samples of all ranks, in every step"
            )
        return [row[4:] for row in every]

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, those of one stage, in place."""
        if not self._is_alone:
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
        try:
            rows = [mine]
            if not self._is_alone:
                rows = [torch.empty_like(mine) for _ in range(self.size)]
                dist.all_gather(rows, mine, group=self.data)
            if self.stages is not None:
                rows = [row for stage in self.stages.rows(torch.stack(rows)) for row in stage]
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {dist.get_rank()} of {world_size()} did not get the numbers of the others: "
                "every rank must ask for statistics in the same steps, with the same settings, and "
                f"none may leave the loop early ({error})"
            ) from error
        return rows

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
        raise class_named(kind)(f"{self.name_of(failed[0])}: {reason}")


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


def require_no_stages(ranks: Ranks, source: str) -> None:
    """Refuse a pipeline where a source reads whole gradients.

    Raises:
        ValueError: naming the source that takes stages.
    """
    if ranks.pipeline is not None:
        raise ValueError(
            f"{source} got Ranks(pipeline=...), but it reads the gradients of a whole model. Way "
            "out: layer_statistics(stage_module, ranks=Ranks(pipeline=group)), which adds up over "
            "stages"
        )
