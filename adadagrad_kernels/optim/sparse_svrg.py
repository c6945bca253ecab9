"""SVRG with AdaBatch's aggregate: steps along sparse gradients with little variance."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels.checks import ACCUMULATION_DTYPES
from adadagrad_kernels.ops import CsrRows, sparse_mean_step_
from adadagrad_kernels.wrappers import resolved


class SparseSvrg:
    r"""A snapshot of the parameter, and steps whose gradients are corrected by those at it.

    With the snapshot :math:`\tilde w`, the mean gradient of all samples there,
    :math:`\mu = \nabla F(\tilde w)`, and :math:`p_j` the share of samples that touch coordinate j,
    a batch steps along

    .. math::
        d_j = \frac{1}{|D_j|} \sum_{i \in D_j}
            \Bigl( d_j f_i(w) - d_j f_i(\tilde w) + \frac{\mu_j}{p_j} \Bigr),

    the variance reduction of Johnson and Zhang 2013 on the coordinates that are touched: over p,
    since a coordinate receives its mean gradient in a share p of the steps alone. Its expectation
    is that of :func:`~adadagrad_kernels.ops.sparse_mean_step_`, and its variance vanishes as w and
    the snapshot approach the minimum. Take a new snapshot every pass or so over the samples.

    Args:
        param: the parameter whose values are the snapshot; copied.
        mean_gradient: :math:`\mu` of the samples' losses, without a ridge, shaped like ``param``.
        probabilities: p, ``[features]`` in the type of sums.
        ranks: ``"local"`` where several processes run and each steps along rows of its own, or all
            along the same rows; ``"auto"`` refuses there.

    Attributes:
        param: the snapshot.
        offset: :math:`\mu_j / p_j`.

    Raises:
        ValueError: where shapes differ, or a coordinate has a mean gradient but no probability.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import CsrRows
        >>> from adadagrad_kernels.optim import SparseSvrg
        >>> weight = torch.zeros(2)
        >>> svrg = SparseSvrg(weight, torch.tensor([0.5, 1.0]), torch.tensor([0.5, 1.0]))
        >>> row = CsrRows(torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([3.0]))
        >>> _ = svrg.step_(weight, row, row, lr=0.1)
        >>> weight
        tensor([-0.1000,  0.0000])
    """

    def __init__(
        self,
        param: Tensor,
        mean_gradient: Tensor,
        probabilities: Tensor,
        *,
        ranks: str = "auto",
    ) -> None:
        self._ranks = ranks
        self._require_one_process()
        if mean_gradient.shape != param.shape or probabilities.shape != (param.numel(),):
            raise ValueError(
                f"mean_gradient has shape {tuple(mean_gradient.shape)} and probabilities "
                f"{tuple(probabilities.shape)}; accepted are {tuple(param.shape)} and "
                f"({param.numel()},), that of param and one for each feature"
            )
        mean = mean_gradient.detach().to(ACCUMULATION_DTYPES[param.dtype]).reshape(-1)
        lost = (mean != 0) & ~(probabilities > 0)
        if lost.any():
            raise ValueError(
                f"probabilities has {float(probabilities[lost][0]):g} for a coordinate whose mean "
                "gradient is not zero; accepted are the shares of samples that touch each"
            )
        self.param: Tensor = param.detach().clone()
        self.probabilities = probabilities
        self.offset: Tensor = torch.where(mean != 0, mean / probabilities, torch.zeros_like(mean))

    def step_(
        self,
        param: Tensor,
        gradients: CsrRows,
        snapshot_gradients: CsrRows,
        *,
        lr: float,
        mode: str = "adabatch",
        ridge: float = 0.0,
        state_sum: Tensor | None = None,
    ) -> Tensor:
        r"""Step ``param`` along a batch's corrected gradients.

        A ridge adds :math:`\lambda w_j / p_j` to the samples' terms, so the minimum is that of the
        losses' mean plus :math:`\lambda \lVert w \rVert^2 / 2`; its gradient needs no correction,
        since it is known for each sample.

        Args:
            param: w, updated in place.
            gradients: of the batch's samples at w.
            snapshot_gradients: of the same samples at the snapshot; the same entries.
            lr: the learning rate.
            mode: as for ``sparse_mean_step_``.
            ridge: :math:`\lambda`.
            state_sum: AdaGrad's accumulator.

        Returns:
            :math:`\lVert d \rVert^2` (0-dimensional, float64).

        Raises:
            ValueError: where the entries of the two differ, and as ``sparse_mean_step_``; where it
                was made before torch.distributed was set up, without ``ranks="local"``.
        """
        self._require_one_process()
        crow, col, values = gradients
        other_crow, other_col, other_values = snapshot_gradients
        same = crow is other_crow and col is other_col
        if not same and not (torch.equal(crow, other_crow) and torch.equal(col, other_col)):
            raise ValueError(
                f"gradients have {len(crow) - 1} samples and {len(col)} entries and those at the "
                f"snapshot {len(other_crow) - 1} and {len(other_col)}, at other places; accepted "
                "are gradients of the same samples"
            )
        return sparse_mean_step_(
            param,
            CsrRows(crow, col, values - other_values),
            lr=lr,
            mode=mode,
            ridge=ridge,
            probabilities=self.probabilities if ridge else None,
            offset=self.offset,
            state_sum=state_sum,
        )

    def _require_one_process(self) -> None:
        resolved(
            self._ranks,
            None,
            "SparseSvrg",
            "gather the rows of all ranks, so that each steps along the same, and say "
            "ranks='local'",
        )
