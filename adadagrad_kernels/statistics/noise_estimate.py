"""How well one batch knows its own noise: the jackknife over samples, without a second pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import torch
from torch import Tensor

from adadagrad_kernels.errors import MissingStatisticError

#: The lower and the upper end of an interval.
Interval: TypeAlias = tuple[float, float]
#: With fewer, two moments of two numbers say nothing of their spread.
FEWEST = 4


@dataclass(frozen=True)
class SampleSpread:
    r"""How :math:`s_i = |g_i|^2` and :math:`p_i = \langle g_i, \bar g \rangle` vary over samples.

    Two of them add up to that of all their samples (Chan, Golub, LeVeque 1979), so micro-batches
    and ranks merge exactly. All inner products must be with the mean gradient of the whole batch.

    Attributes:
        samples: how many.
        norm: the mean of :math:`s_i`.
        product: the mean of :math:`p_i`, which is N for the whole batch.
        norms: the sum of the squared deviations of :math:`s_i` from its mean.
        products: that of :math:`p_i`.
        both: that of the products of the two deviations.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.statistics import SampleSpread
        >>> norms, products = torch.tensor([1.0, 3.0, 2.0, 6.0]), torch.tensor([1.0, 2.0, 1.0, 4.0])
        >>> parts = [SampleSpread.of(norms[i : i + 2], products[i : i + 2]) for i in (0, 2)]
        >>> parts[0] + parts[1] == SampleSpread.of(norms, products)
        True
    """

    samples: int
    norm: float
    product: float
    norms: float
    products: float
    both: float

    @classmethod
    def of(cls, sq_norms: Tensor, inner_products: Tensor) -> SampleSpread:
        """That of some samples.

        Args:
            sq_norms: ``[samples]``.
            inner_products: ``[samples]``, of the same samples.

        Raises:
            ValueError: for other shapes, or no samples.
        """
        if sq_norms.shape != inner_products.shape or sq_norms.dim() != 1 or not len(sq_norms):
            raise ValueError(
                f"squared norms of shape {tuple(sq_norms.shape)} and inner products of shape "
                f"{tuple(inner_products.shape)}; accepted is one of each for every sample"
            )
        s, p = sq_norms.detach().cpu(), inner_products.detach().cpu()
        return cls(len(s), *moments_of(s, p).tolist())

    @classmethod
    def of_ranks(cls, rows: Iterable[Sequence[float]], factor: float = 1.0) -> SampleSpread | None:
        """That of all ranks, in their order; None without samples.

        Args:
            rows: of each rank its number of samples, and what ``moments_of`` says of them.
            factor: by which all squared norms are multiplied.
        """
        total: SampleSpread | None = None
        for samples, norm, product, norms, products, both in rows:
            if samples:
                scaled = (norm * factor, product, norms * factor * factor, products, both * factor)
                own = cls(int(samples), *scaled)
                total = own if total is None else total + own
        return total

    def __add__(self, other: SampleSpread) -> SampleSpread:
        """That of the samples of both."""
        samples = self.samples + other.samples
        between = self.samples * other.samples / samples
        norm, product = other.norm - self.norm, other.product - self.product
        share = other.samples / samples
        return SampleSpread(
            samples,
            self.norm + share * norm,
            self.product + share * product,
            self.norms + other.norms + between * norm * norm,
            self.products + other.products + between * product * product,
            self.both + other.both + between * norm * product,
        )

    def estimate(self) -> NoiseEstimate:
        r"""The noise and the signal of the whole batch, with the jackknife's covariance.

        Without sample j, with b samples in all,

        .. math::
            V_{(j)} = \text{const} - \frac{b\,(s_j - 2 p_j)}{(b-1)(b-2)}, \qquad
            |G|^2_{(j)} = \text{const} - \frac{2\,(b p_j - s_j)}{(b-1)(b-2)},

        exactly, since leaving one out changes N to :math:`(b^2 N - 2 b p_j + s_j)/(b-1)^2`. The
        jackknife (Efron and Stein 1981) takes (b - 1) / b times the sum of their squared
        deviations for a variance; on average that is not too small.

        Raises:
            ValueError: for fewer than 4 samples.
        """
        b = self.samples
        if b < FEWEST:
            raise ValueError(
                f"error bars need at least {FEWEST} samples, and this batch has {b}; take a larger "
                "one"
            )
        variance = b * (self.norm - self.product) / (b - 1)
        norms, products, both = self.norms, self.products, self.both
        scale = (b - 1) * (b - 2) ** 2
        of_noise = norms - 4.0 * both + 4.0 * products
        of_signal = norms - 2.0 * b * both + b * b * products
        together = -norms + (b + 2.0) * both - 2.0 * b * products
        return NoiseEstimate(
            samples=b,
            noise=max(0.0, variance),
            signal=self.product - variance / b,
            noise_variance=max(0.0, b * of_noise / scale),
            signal_variance=max(0.0, 4.0 * of_signal / (b * scale)),
            covariance=2.0 * together / scale,
        )


def moments_of(sq_norms: Tensor, inner_products: Tensor) -> Tensor:
    """What a ``SampleSpread`` holds of some samples, in its order, as float64 on their device."""
    s, p = sq_norms.double(), inner_products.to(sq_norms.device).double()
    norm, product = s.mean(), p.mean()
    s, p = s - norm, p - product
    return torch.stack([norm, product, s.square().sum(), p.square().sum(), s.mul(p).sum()])


@dataclass(frozen=True)
class NoiseEstimate:
    r"""V and the unbiased :math:`|G|^2 = N - V/b`, with their variances and covariance.

    Intervals are those of Student's t with samples - 1 degrees of freedom.

    Attributes:
        samples: of the batch.
        noise: V_norm, the trace of the covariance of the samples' gradients.
        signal: :math:`|G|^2`, which noise may make negative.
        noise_variance: the variance of ``noise``.
        signal_variance: that of ``signal``.
        covariance: of the two.

    Example:
        >>> from adadagrad_kernels.statistics import NoiseEstimate
        >>> estimate = NoiseEstimate(1_000, 50.0, 2.0, 4.0, 0.01, 0.0)
        >>> [round(end, 1) for end in estimate.scale_interval(0.95)]
        [22.1, 28.4]
    """

    samples: int
    noise: float
    signal: float
    noise_variance: float
    signal_variance: float
    covariance: float

    def noise_interval(self, level: float = 0.95) -> Interval:
        """Of V_norm; not below 0."""
        low, high = self._around(self.noise, self.noise_variance, level)
        return max(0.0, low), high

    def signal_interval(self, level: float = 0.95) -> Interval:
        """Of |G|², which may begin below 0."""
        return self._around(self.signal, self.signal_variance, level)

    def scale_interval(self, level: float = 0.95) -> Interval:
        r"""Of the noise scale :math:`V / |G|^2`, by Fieller's theorem (1954).

        It holds every :math:`\rho \ge 0` for which :math:`V - \rho |G|^2` does not differ from 0 at
        this level. Where the batch does not tell :math:`|G|^2` from 0, its upper end is infinite.
        """
        squared = quantile(level, self.samples - 1) ** 2
        a = self.signal**2 - squared * self.signal_variance
        half = self.noise * self.signal - squared * self.covariance
        c = self.noise**2 - squared * self.noise_variance
        root = math.sqrt(max(0.0, half * half - a * c))
        if a > 0.0 and self.signal < 0.0:  # noise alone: no finite scale is near
            return math.inf, math.inf
        # The ends are the roots of a rho^2 - 2 half rho + c, whose product is c / a: the one next
        # to 0 without cancellation. Where a <= 0 the other root is below 0.
        low = 0.0 if c <= 0.0 else c / (half + root) if half + root > 0.0 else math.inf
        return low, (half + root) / a if a > 0.0 else math.inf

    def _around(self, value: float, variance: float, level: float) -> Interval:
        reach = quantile(level, self.samples - 1) * math.sqrt(variance)
        return value - reach, value + reach


class RunningNoise:
    r"""Running averages of V and :math:`|G|^2`, and how well they are known.

    Steps count as independent: with weights :math:`w_k` that add up to 1, the covariance of the
    averages is :math:`\sum_k w_k^2 C_k`.

    Args:
        beta: weight of the past, as ``RunningAverage`` has it; 0 keeps the last step alone.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self._sums = [0.0] * 5
        self._weight = 0.0

    def add(self, estimate: NoiseEstimate) -> NoiseEstimate:
        """Add a step's, and return that of the averages, with the step's number of samples."""
        new, old = 1.0 - self.beta, self.beta
        of_steps = (estimate.noise, estimate.signal)
        of_spread = (estimate.noise_variance, estimate.signal_variance, estimate.covariance)
        for place, value in enumerate(of_steps):
            self._sums[place] = old * self._sums[place] + new * value
        for place, value in enumerate(of_spread, len(of_steps)):
            self._sums[place] = old * old * self._sums[place] + new * new * value
        self._weight = old * self._weight + new
        w = self._weight
        noise, signal, *spread = self._sums
        return NoiseEstimate(estimate.samples, noise / w, signal / w, *(c / w / w for c in spread))

    def state_dict(self) -> dict[str, object]:
        """The sums, as plain JSON types."""
        return {"sums": list(self._sums), "weight": self._weight}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a ``state_dict``."""
        self._sums = [float(value) for value in state["sums"]]  # type: ignore[attr-defined]
        self._weight = float(state["weight"])  # type: ignore[arg-type]


def quantile(level: float, freedom: int) -> float:
    """Student's t with so many degrees of freedom, both tails outside of ``level`` together.

    By Fisher's and Cornish's expansion; with 3 degrees of freedom 0.95 is 0.7 % too small.

    Raises:
        ValueError: unless 0 < level < 1.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be above 0 and below 1, such as 0.95, got {level}")
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def spread_of(sq_norms: Tensor | None, inner_products: Tensor | None) -> SampleSpread:
    """That of a record's samples.

    Raises:
        MissingStatisticError: where either was not measured.
    """
    if sq_norms is None or inner_products is None:
        raise MissingStatisticError(
            "error bars need the squared norm of every sample and its inner product with the mean "
            "gradient, and this record lacks "
            f"{'the norms' if sq_norms is None else 'the inner products'}; ask the source with "
            "inner_products=True, and over several ranks with statistics(losses=...) or "
            "pool(..., inner_products=...). Estimates from micro-batches or workers, and a "
            "tensor-parallel plan beside other ranks, do not have them"
        )
    return SampleSpread.of(sq_norms, inner_products)
