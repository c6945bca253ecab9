"""EmbeddingBag of bags of different lengths: positions in one row, and the bag of each.

How long the longest bag is, only the device knows; a table of all bags would have to wait for it.
So contributions are sorted by sample and index, and summed by runs, in memory of the positions'.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adadagrad_kernels.ops import LayerMoments
from adadagrad_kernels.statistics.measuring.uses import LayerUse, upcast


def in_one_row(offsets: Tensor, positions: int, *, include_last: bool) -> tuple[Tensor, Tensor]:
    """Starts of the bags, and the bag of every position.

    Args:
        offsets: where bags start, from 0 on; with ``include_last`` the number of positions last.
        positions: of all bags.
        include_last: whether offsets have that number.
    """
    starts = offsets[:-1] if include_last else offsets
    places = torch.arange(positions, device=offsets.device, dtype=offsets.dtype)
    return starts, torch.searchsorted(starts.contiguous(), places, right=True) - 1


@dataclass(eq=False)
class RaggedBagUse(LayerUse):
    """``F.embedding_bag`` with offsets.

    Saved are the starts of the bags, and of all positions, ``[1, positions]``, the indices, their
    factors and their bags.
    """

    least_dimensions: int = 1

    def arrange(self) -> None:
        """Gradients alone: positions know their bag, and a bag its sample by its place."""
        if self.arranged is not None:
            self.grads = {place: self.arranged(grad) for place, grad in self.grads.items()}
            self.arranged = None

    def moments(self, variance: bool, inner_products: bool) -> LayerMoments:
        """Sums of runs of one sample and one index."""
        assert self.weight is not None
        samples, rows, indices, owners = self._by_position()
        count, features = len(self.weight.value), rows.shape[-1]
        sums, runs, indices, owners = _summed_by_run(rows, indices, owners, count)
        weight_grad = _by_index(sums, indices, count)
        sq_norms = _by_sample(sums.double().square().sum(1), owners, samples)
        products = spread = None
        if inner_products:
            along = (sums.double() * weight_grad[indices].double()).sum(1)
            products = _by_sample(along, owners, samples)
        if variance:
            mean = weight_grad / samples
            apart = (sums - mean[indices]).square_().mul_(runs.unsqueeze(1))
            spread = _by_index(apart, indices, count)
            touched = sums.new_zeros(count).index_add_(0, indices, runs.to(sums.dtype))
            # The samples that did not look an index up have zeros there.
            spread += mean.square_() * (samples - touched).unsqueeze(1)
            spread /= samples - 1
        assert weight_grad.shape == (count, features)
        return LayerMoments(weight_grad, None, sq_norms, spread, None, products)

    def contributions(self, rows: slice) -> list[Tensor]:
        """Zeros except in the rows that a sample looked up."""
        assert self.weight is not None
        samples, outputs, indices, owners = self._by_position()
        start, stop, _ = rows.indices(samples)
        count = len(self.weight.value)
        here = (owners >= start) & (owners < stop)
        places = torch.where(here, (owners - start) * count + indices, 0)
        weight = outputs.new_zeros((stop - start) * count, outputs.shape[-1])
        weight.index_add_(0, places, outputs * here.unsqueeze(1))
        return [weight.view(stop - start, *self.weight.value.shape)]

    def _by_position(self) -> tuple[int, Tensor, Tensor, Tensor]:
        """Samples; gradients ``[positions, features]``, indices and samples of all positions."""
        # What is shared was expanded: every row of it is the same.
        indices, factors, bags = (t[(0,) * (t.dim() - 1)] for t in self.saved[1:])
        grads = upcast(self.grad)
        samples = len(grads)
        grads = grads.reshape(samples, -1, grads.shape[-1])
        if self.shared:
            grads, owners = grads[:, bags], torch.arange(samples, device=bags.device)
            rows = (grads * factors.to(grads.dtype).unsqueeze(1)).flatten(0, 1)
            owners = owners.repeat_interleave(len(bags))
            return samples, rows, indices.long().repeat(samples), owners
        owners = bags // grads.shape[1]
        rows = grads.flatten(0, 1)[bags] * factors.to(grads.dtype).unsqueeze(1)
        return samples, rows, indices.long(), owners


def _summed_by_run(
    rows: Tensor, indices: Tensor, owners: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of one sample and one index added up; as many sums as rows, the last ones empty.

    Returns:
        The sums, whether each is one, and its index and sample.
    """
    keys, order = (owners * count + indices).sort(stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    run = first.cumsum(0) - 1
    lengths = torch.zeros_like(run).scatter_add_(0, run, torch.ones_like(run))
    sums = torch.segment_reduce(rows[order], "sum", lengths=lengths, initial=0, unsafe=True)
    runs = torch.zeros_like(keys).scatter_(0, run, keys)
    return sums, lengths > 0, runs % count, runs // count


def _by_index(rows: Tensor, indices: Tensor, count: int) -> Tensor:
    total = torch.zeros(count, rows.shape[1], dtype=torch.float64, device=rows.device)
    return total.index_add_(0, indices, rows.double()).to(rows.dtype)


def _by_sample(numbers: Tensor, owners: Tensor, samples: int) -> Tensor:
    return numbers.new_zeros(samples).index_add_(0, owners, numbers)
