"""How well one batch knows the ratios of the inner-product tests: the infinitesimal jackknife."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from adadagrad_kernels.statistics.noise_estimate import FEWEST, Interval, quantile


@dataclass(frozen=True)
class RatioEstimate:
    """A positive ratio of a batch's statistics and the variance of its estimate.

    Attributes:
        samples: of the batch.
        value: the ratio.
        variance: of its estimate.

    Example:
        >>> from adadagrad_kernels.statistics import RatioEstimate
        >>> [round(end, 2) for end in RatioEstimate(1_000, 2.0, 0.01).interval(0.95)]
        [1.81, 2.21]
    """

    samples: int
    value: float
    variance: float

    def interval(self, level: float = 0.95) -> Interval:
        """On the scale of logarithms, by Student's t with samples - 1 degrees of freedom."""
        reach = quantile(level, self.samples - 1) * math.sqrt(self.variance)
        if not self.value > 0.0:
            return 0.0, math.inf if reach else 0.0
        exponent = reach / self.value
        # Beyond what a number holds the end says as little as infinity.
        return self.value * math.exp(-exponent), (
            self.value * math.exp(exponent) if exponent < 700.0 else math.inf
        )


def covariance_weights(inner_products: Tensor) -> Tensor:
    """With which the samples' gradients add up to S g, S their covariance, from their p."""
    return (inner_products - inner_products.mean()) / max(len(inner_products) - 1, 1)


def ratio_estimates(
    sq_norms: Tensor, inner_products: Tensor, covariance_products: Tensor
) -> tuple[RatioEstimate, RatioEstimate]:
    r"""V_ip / N² and V_orth / N, by how they change with the weight of every sample.

    With :math:`q_i = \langle g_i, S \bar g \rangle` and S the covariance over the b samples with
    divisor b, a little more weight on sample i changes

    .. math::
        N \text{ by } 2 (p_i - N), \qquad
        V_{\mathrm{ip}} \text{ by } (p_i - N)^2 - V_{\mathrm{ip}} + 2 (q_i - V_{\mathrm{ip}}),
        \qquad
        V_{\mathrm{norm}} \text{ by } s_i - 2 p_i + N - V_{\mathrm{norm}},

    and the ratios by the chain rule. The variance of an estimate is the sum of the squares of
    these, over b (b - 1) (the infinitesimal jackknife; Jaeckel 1972).

    Args:
        sq_norms: s, ``[samples]``.
        inner_products: p, ``[samples]``.
        covariance_products: those with the covariance's Bessel correction, ``[samples]``.

    Raises:
        ValueError: for fewer than 4 samples.
    """
    b = len(sq_norms)
    if b < FEWEST:
        raise ValueError(
            f"error bars need at least {FEWEST} samples, and this batch has {b}; take a larger one"
        )
    s, p, q = (
        each.detach().cpu().double() for each in (sq_norms, inner_products, covariance_products)
    )
    signal = p.mean()
    q = q * (b - 1) / b
    along, whole = (p - signal).square().mean(), s.mean() - signal
    of_signal = 2.0 * (p - signal)
    of_along = (p - signal).square() - along + 2.0 * (q - along)
    of_whole = s - 2.0 * p + signal - whole
    across = whole - along / signal
    of_across = of_whole - of_along / signal + along / signal**2 * of_signal
    of_ratio = of_along / signal**2 - 2.0 * along / signal**3 * of_signal
    of_other = of_across / signal - across / signal**2 * of_signal
    return _estimate(b, along / signal**2, of_ratio), _estimate(b, across / signal, of_other)


def _estimate(samples: int, value: Tensor, changes: Tensor) -> RatioEstimate:
    bessel = samples / (samples - 1)
    variance = bessel**2 * changes.square().sum().item() / (samples * (samples - 1))
    return RatioEstimate(samples, bessel * value.item(), variance)
