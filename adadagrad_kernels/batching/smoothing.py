"""Running averages of a batch's statistics, for tests that should not follow every outlier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adadagrad_kernels.averages import RunningAverage
from adadagrad_kernels.settings import require_average_factor, require_equal, require_keys

if TYPE_CHECKING:
    from adadagrad_kernels.statistics import GradientStatistics


class SmoothedStatistics:
    r"""Averages what the tests read, over steps whose batches may differ in size.

    The exponential averages, corrected for the bias of the first steps, are of

    .. math::
        V_{\mathrm{norm}}, \qquad |G|^2 = N - \frac{V_{\mathrm{norm}}}{b}, \qquad
        \frac{V_{\mathrm{ip}}}{N},

    whose expectations do not depend on the batch size b; that of N does, as its noise falls with b.
    The record of a step then holds :math:`N = |G|^2 + V_{\mathrm{norm}} / b` for its own b, with
    the averages instead of its own values (an average :math:`|G|^2` below 0 counts as 0), and is
    as consistent as a measured one. Its mean gradient and loss stay its own; the values of single
    samples, coordinates, parameters and halves are left out.

    Args:
        beta: weight of the past, at least 0 and below 1; 0 changes nothing.

    Raises:
        ValueError: for another beta.

    Example:
        >>> from adadagrad_kernels.batching import SmoothedStatistics
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> smoothed = SmoothedStatistics(beta=0.5)
        >>> for norm in (12.0, 24.0):
        ...     record = smoothed(GradientStatistics(4, mean_sq_norm=2.0, sum_sq_norms=norm))
        >>> round(record.variance_norm, 3)  # of 4/3 and 16/3, with weights 1/3 and 2/3
        4.0
    """

    def __init__(self, beta: float) -> None:
        require_average_factor("smoothing", beta)
        self.beta = beta
        self._averages: dict[str, RunningAverage] = {}

    def __call__(self, statistics: GradientStatistics) -> GradientStatistics:
        """The record with averages, this step's among them.

        Args:
            statistics: finite, of two samples or more.
        """
        if not self.beta:
            return statistics
        samples = statistics.batch_size
        variance = self._average("variance", statistics.variance_norm)
        signal = statistics.mean_sq_norm - statistics.variance_norm / samples
        mean_sq_norm = max(0.0, self._average("signal", signal)) + variance / samples
        sum_sq_inner_products = None
        if statistics.sum_sq_inner_products is not None:
            if statistics.mean_sq_norm:
                along = statistics.inner_product_variance / statistics.mean_sq_norm
                self._average("along", along)
            average = self._averages.get("along")
            along = average.mean * mean_sq_norm if average else 0.0
            sum_sq_inner_products = (samples - 1) * along + samples * mean_sq_norm**2
        return replace(
            statistics,
            mean_sq_norm=mean_sq_norm,
            sum_sq_norms=(samples - 1) * variance + samples * mean_sq_norm,
            sq_norms=None,
            inner_products=None,
            sum_sq_inner_products=sum_sq_inner_products,
            variance=None,
            by_parameter=None,
            by_group=None,
            covariance_products=None,
            halves_cosine=None,
            spread=None,
            spectral=None,
        )

    def state_dict(self) -> dict[str, Any]:
        """The averages, as plain JSON types."""
        averages = self._averages.items()
        return {
            "beta": self.beta,
            "averages": {name: average.total for name, average in averages},
            "weights": {name: average.weight for name, average in averages},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: if keys are missing or beta is another; nothing has changed then.
        """
        require_keys("SmoothedStatistics", state, self.state_dict())
        require_equal("SmoothedStatistics", "smoothing", state["beta"], self.beta)
        weights = state["weights"]
        self._averages = {
            str(name): RunningAverage(self.beta, total=float(total), weight=float(weights[name]))
            for name, total in state["averages"].items()
        }

    def _average(self, name: str, value: float) -> float:
        return self._averages.setdefault(name, RunningAverage(self.beta)).add(value)
