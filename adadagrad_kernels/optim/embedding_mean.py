"""AdaBatch's aggregate for embeddings: each row's gradient over the samples that looked it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.wrappers import resolved

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_PER = ("sample", "occurrence")


class EmbeddingMean:
    r"""Rescales an embedding's gradient from the mean over the batch to the mean over its users.

    If the loss is the mean over B samples, the gradient of row v is the sum of the samples'
    contributions over B: a row that only one of many samples looked up hardly moves. With
    :math:`n_v` the number of samples that looked v up,

    .. math:: \nabla_v \leftarrow \frac{B}{n_v} \nabla_v,

    which is AdaBatch's rule (Defossez and Bach 2017, arXiv 1711.01761) for rows, and the
    optimizer's step follows it. Rows that no sample looked up are left alone.

    Call :meth:`rescale_` after the backward passes of a batch and before clipping and the step.
    Only lookups that the backward pass reaches count, so evaluations in between do not. All
    lookups of one backward pass belong to the same samples, the first dimension of the indices;
    each further backward pass, as in gradient accumulation, brings samples of its own. The loss
    must then be the mean over all of them: divide that of each micro-batch by their number.

    Do not use it for a weight that another layer uses too: that layer's part of the gradient does
    not come from the lookups.

    Args:
        embedding: the layer; its gradient may be dense or ``sparse=True``.
        per: ``sample``, or ``occurrence``: :math:`n_v` counts every position at which v was
            looked up, so that a row's step is the mean over these.
        ranks: whose lookups count, where several processes train: ``Ranks()`` or a process group
            for gradients that are reduced over these, from one all_reduce of a number for every
            row; ``"local"`` for the gradient of this process alone. ``"auto"`` refuses there.

    Raises:
        ValueError: for another layer or ``per``; for ``"auto"`` in several processes.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.optim import EmbeddingMean
        >>> embedding = torch.nn.Embedding(4, 1, _weight=torch.zeros(4, 1))
        >>> with EmbeddingMean(embedding) as mean:
        ...     loss = embedding(torch.tensor([[0, 1], [0, 0], [0, 3]])).sum((1, 2)).mean()
        ...     loss.backward()
        ...     before = embedding.weight.grad.flatten().clone()
        ...     mean.rescale_()
        >>> before, embedding.weight.grad.flatten()
        (tensor([1.3333, 0.3333, 0.0000, 0.3333]), tensor([1.3333, 1.0000, 0.0000, 1.0000]))
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        *,
        per: str = "sample",
        ranks: str | ProcessGroup | Ranks = "auto",
    ) -> None:
        if not isinstance(embedding, nn.Embedding):
            raise ValueError(
                f"embedding is a {type(embedding).__name__}; accepted is torch.nn.Embedding"
            )
        if per not in _PER:
            raise ValueError(f"per is {per!r}; accepted are {', '.join(_PER)}")
        self._asked_ranks = ranks
        self._ranks = self._resolved()
        self.per = per
        self._embedding = embedding
        self._called = False  # since the last step, where gradients are recorded
        self._lookups: list[Tensor] = []  # of the backward pass that is running
        self._batches: list[list[Tensor]] = []  # of those since the last step
        self._handles: list[Any] = [
            embedding.register_forward_hook(self._looked_up, with_kwargs=True),
            embedding.weight.register_post_accumulate_grad_hook(self._arrived),  # type: ignore[no-untyped-call]
        ]

    def __enter__(self) -> EmbeddingMean:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the hooks off the layer, and forget what was counted."""
        for handle in self._handles:
            handle.remove()
        self.forget()

    def forget(self) -> None:
        """Start anew, as after a batch that is not stepped along."""
        self._called = False
        self._lookups.clear()
        self._batches.clear()

    def rescale_(self) -> None:
        """Rescale ``embedding.weight.grad`` by the lookups since the last call, and forget them.

        Raises:
            ValueError: where lookups of one backward pass have different numbers of samples, and
                where rows were looked up, but no backward pass brought the gradient; where it was
                made before torch.distributed was set up, and would count the lookups of one rank
                alone. It is as it was then, and nothing is forgotten.
        """
        if self._ranks is None:
            self._resolved()
        grad = self._embedding.weight.grad
        if grad is not None and (self._batches or self._called or self._ranks is not None):
            samples, rows, counts = self._counted_over_ranks()
            factors = samples / counts.double()
            if grad.is_sparse:
                self._embedding.weight.grad = _scaled_sparse(grad, rows, factors)
            else:
                grad[rows] = (grad[rows] * factors[:, None]).to(grad.dtype)
        self.forget()

    def _resolved(self) -> Ranks | None:
        """Whose lookups count, among the processes that run now."""
        way_out = "ranks=Ranks(), which counts over all"
        return resolved(self._asked_ranks, None, "EmbeddingMean", way_out)

    def _counted_over_ranks(self) -> tuple[int, Tensor, Tensor]:
        """Like ``_counted``; over several ranks, an error on one is raised on all."""
        if self._ranks is None:
            return self._counted()
        device, size = self._embedding.weight.device, self._embedding.num_embeddings
        counts, samples, error = torch.zeros(size, dtype=torch.long, device=device), 0, None
        try:
            samples, rows, times = self._counted()
            counts[rows] = times
        except Exception as problem:
            error = problem
        samples = int(sum(row[0] for row in self._ranks.gather([float(samples)], device, error)))
        self._ranks.add_up(counts)
        used = counts.nonzero().flatten()
        return samples, used, counts[used]

    def _counted(self) -> tuple[int, Tensor, Tensor]:
        """Samples in all, the rows that they looked up, and how often by ``per``."""
        if self._called and not self._batches:
            raise ValueError(
                "the embedding looked rows up, but no backward pass brought its gradient: it was "
                "written into .grad, as backward_with_statistics does, or it is that of an earlier "
                "step. Way out: loss.backward(), inside layer_statistics if statistics are needed"
            )
        size = self._embedding.num_embeddings
        samples, users = 0, []
        for lookups in self._batches:
            lengths = {indices.shape[0] if indices.dim() else 1 for indices in lookups}
            if len(lengths) > 1:
                raise ValueError(
                    f"lookups of one backward pass are of {sorted(lengths)} samples, the first "
                    "dimension of their indices; accepted are equal numbers: one layer for each, "
                    "or per='occurrence' of flattened indices in one lookup"
                )
            of_batch = lengths.pop()
            samples += of_batch
            flat = torch.cat([indices.reshape(of_batch, -1) for indices in lookups], 1).long()
            if self.per == "sample":
                sample = torch.arange(of_batch, device=flat.device)[:, None]
                flat = torch.unique(sample * size + flat) % size
            users.append(flat.flatten())
        device = self._embedding.weight.device
        found = torch.cat(users) if users else torch.empty(0, dtype=torch.long, device=device)
        rows, counts = torch.unique(found, return_counts=True)
        return samples, rows, counts

    def _looked_up(
        self, _: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor
    ) -> None:
        self._called |= torch.is_grad_enabled()
        if output.requires_grad:
            indices: Tensor = (args[0] if args else kwargs["input"]).detach()

            def reached(_: Tensor) -> None:
                self._lookups.append(indices)

            output.register_hook(reached)  # type: ignore[no-untyped-call]

    def _arrived(self, _: Tensor) -> None:
        if self._lookups:
            self._batches.append(self._lookups)
            self._lookups = []


def _scaled_sparse(grad: Tensor, rows: Tensor, factors: Tensor) -> Tensor:
    """The sparse gradient with each of its rows scaled; ``rows`` ascend."""
    grad = grad.coalesce()
    of_grad = grad.indices()[0]
    place = torch.searchsorted(rows, of_grad).clamp_(max=len(rows) - 1)
    one = torch.ones((), dtype=factors.dtype, device=factors.device)
    scale = torch.where(rows[place] == of_grad, factors[place], one)
    values = (grad.values() * scale[:, None]).to(grad.dtype)
    return torch.sparse_coo_tensor(
        grad.indices(),
        values,
        grad.shape,
        device=values.device,
        is_coalesced=True,
        check_invariants=False,
    )
