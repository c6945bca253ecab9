"""The gradient noise scale, an estimate of the critical batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adadagrad_kernels.averages import RunningAverage
from adadagrad_kernels.criteria.decision import Decision, check_constant
from adadagrad_kernels.settings import require_numbers
from adadagrad_kernels.statistics import GradientStatistics


@dataclass(eq=False)
class GradientNoiseScale:
    r"""Asks for a multiple of the gradient noise scale (McCandlish et al. 2018, arXiv 1812.06162).

    The simple noise scale estimates the critical batch size, beyond which larger batches stop
    saving steps in proportion:

    .. math::
        S = V_{\mathrm{norm}}, \qquad |G|^2 = N - V_{\mathrm{norm}} / b, \qquad
        T = \mathrm{scale} \cdot \frac{\max(\bar S, \epsilon)}{\max(\overline{|G|^2}, \epsilon)},

    Both are unbiased. The bars are exponential moving averages over the measured steps,
    :math:`\bar S_k = \beta \bar S_{k-1} + (1 - \beta) S_k`, divided by :math:`1 - \beta^k`. They
    are kept separately, because a ratio of averages varies less than an average of ratios.
    A single batch may well estimate :math:`|G|^2` as negative; T is then effectively infinite.
    ``MicroBatchGradients`` fills the record with the estimate from two batch sizes, whose formula
    is that of :func:`two_batch_noise_scale`.

    The norm test with an unbiased N asks for the same with ``scale`` = 1 / eta².

    Attributes:
        scale: finite and greater than 0. A larger one makes larger batches.
        beta: from 0 (no average) up, below 1.
        eps: finite and greater than 0: the least value of each part of the ratio.

    Raises:
        ValueError: for other values; when called, for a batch of one.

    Example:
        >>> from adadagrad_kernels.criteria import GradientNoiseScale
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> batch = GradientStatistics(batch_size=8, mean_sq_norm=2.0, sum_sq_norms=72.0)
        >>> GradientNoiseScale()(batch).batch_size  # S = 8, |G|² = 1
        8.0
    """

    scale: float = 1.0
    beta: float = 0.0
    eps: float = 1e-12
    _noise: RunningAverage = field(init=False, repr=False)
    _signal: RunningAverage = field(init=False, repr=False)
    name = "gradient_noise_scale"
    needs_variance = False
    needs_inner_products = False
    larger_batches: ClassVar[Mapping[str, str]] = {"scale": "larger"}

    def __post_init__(self) -> None:
        check_constant("scale", self.scale)
        check_constant("eps", self.eps)
        self._noise, self._signal = RunningAverage(self.beta), RunningAverage(self.beta)

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the averages up to this batch; what is not finite is left out of them."""
        noise = statistics.variance_norm
        if not statistics.is_finite:
            return Decision(self.name, math.nan, False, {})
        signal = statistics.mean_sq_norm - noise / statistics.batch_size
        noise, signal = self._noise.add(noise), self._signal.add(signal)
        size = self.scale * max(noise, self.eps) / max(signal, self.eps)
        return Decision(self.name, size, size <= statistics.batch_size, {})

    def size_at(self, noise_scale: float, batch_size: int) -> float:
        """T where the noise scale is this."""
        return self.scale * noise_scale

    @property
    def noise(self) -> float:
        """The average of S, the trace of the covariance; NaN before the first step."""
        return self._noise.mean

    @property
    def signal(self) -> float:
        """The average of the estimated |G|², which may be negative; NaN before the first step."""
        return self._signal.mean

    def wants_statistics(self, samples: int) -> bool:
        """Every step's."""
        return True

    def count(self, samples: int) -> None:
        """A step that was not measured leaves the averages as they are."""

    def state_dict(self) -> dict[str, Any]:
        """The two sums and the weight of the steps in them."""
        noise, signal = self._noise, self._signal
        return {"noise": noise.total, "signal": signal.total, "weight": noise.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: for the state of something else; nothing has changed then.
        """
        saved = require_numbers("GradientNoiseScale", state, {"noise", "signal", "weight"})
        self._noise, self._signal = (
            RunningAverage(self.beta, total=saved[name], weight=saved["weight"])
            for name in ("noise", "signal")
        )


def two_batch_noise_scale(
    small_sq_norm: float, big_sq_norm: float, *, small: int, big: int
) -> tuple[float, float]:
    r"""S and |G|² from the squared norms of mean gradients of two batch sizes.

    .. math::
        S = \frac{|G_{\mathrm{small}}|^2 - |G_{\mathrm{big}}|^2}
                 {1 / B_{\mathrm{small}} - 1 / B_{\mathrm{big}}}, \qquad
        |G|^2 = \frac{B_{\mathrm{big}} |G_{\mathrm{big}}|^2
                      - B_{\mathrm{small}} |G_{\mathrm{small}}|^2}
                     {B_{\mathrm{big}} - B_{\mathrm{small}}}

    (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1). Both are unbiased, and either may be
    negative: average each over the steps before their ratio is taken. With the mean of the squared
    norms of all micro-batches as the small one, it is what ``MicroBatchGradients`` measures.

    Args:
        small_sq_norm: squared norm of the mean gradient of ``small`` samples.
        big_sq_norm: that of ``big`` samples.
        small: at least 1.
        big: greater than ``small``.

    Raises:
        ValueError: for other sizes.

    Example:
        >>> from adadagrad_kernels.criteria import two_batch_noise_scale
        >>> two_batch_noise_scale(5.0, 2.0, small=2, big=8)
        (8.0, 1.0)
    """
    if not 1 <= small < big:
        raise ValueError(
            f"small and big must be two batch sizes, 1 <= small < big, got small={small} and "
            f"big={big}"
        )
    noise = (small_sq_norm - big_sq_norm) / (1 / small - 1 / big)
    signal = (big * big_sq_norm - small * small_sq_norm) / (big - small)
    return noise, signal
