"""The record of a batch, from which every batch-size test can be computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adadagrad_kernels.errors import MissingStatisticError, UnsupportedModelError
from adadagrad_kernels.ops import BatchMoments
from adadagrad_kernels.ranks import Agreement
from adadagrad_kernels.stages import Stages
from adadagrad_kernels.statistics.noise_estimate import (
    NoiseEstimate,
    SampleSpread,
    spread_of,
)
from adadagrad_kernels.statistics.ratio_estimate import RatioEstimate, ratio_estimates
from adadagrad_kernels.statistics.spectral import SpectralNoise
from adadagrad_kernels.statistics.sums import cosine_of_parts, on_host, squared_norm


@dataclass(frozen=True, eq=False)
class GradientStatistics:
    r"""Statistics of the per-sample (per-example) gradients :math:`g_1, \dots, g_b` of a batch.

    The gradients are those of the samples' own losses, so their mean :math:`\bar g` is the
    gradient of the mean loss. With :math:`N = \lVert \bar g \rVert^2`,
    :math:`s_i = \lVert g_i \rVert^2` and :math:`p_i = \langle g_i, \bar g \rangle`,

    .. math::
        V_{\mathrm{norm}} = \frac{\sum_i s_i - b N}{b - 1}, \qquad
        V_{\mathrm{ip}} = \frac{\sum_i p_i^2 - b N^2}{b - 1}, \qquad
        V_{\mathrm{orth}} = \frac{\sum_i s_i - \sum_i p_i^2 / N}{b - 1},

    all with Bessel's correction, and :math:`V_{\mathrm{norm}} = V_{\mathrm{orth}} +
    V_{\mathrm{ip}} / N`. If rounding makes a variance negative, it is given as zero.

    Attributes:
        batch_size: number of samples b, at least one.
        mean_sq_norm: N.
        sum_sq_norms: :math:`\sum_i s_i`.
        sq_norms: :math:`s_i`, ``[batch_size]`` float64, or None.
        inner_products: :math:`p_i`, ``[batch_size]`` float64, or None.
        sum_sq_inner_products: :math:`\sum_i p_i^2`, or None.
        covariance_products: :math:`\langle g_i, S \bar g \rangle`, S the samples' covariance,
            ``[batch_size]``, or None; of them the inner-product tests make their intervals.
        variance: variance of every coordinate by parameter name, or None. A batch of one has no
            variance and holds zeros, its deviations from its own mean, which merging needs.
        mean_gradient: :math:`\bar g` by parameter name; two records need it to merge.
        loss: mean loss of the batch, or None.
        halves_cosine: cosine of the mean gradients of the batch's two halves, or None. ``merge`` of
            two equally large records gives it, and so does ``MicroBatchGradients`` for two equally
            large micro-batches. NaN where one of the two is zero.
        by_parameter: the scalars of every parameter by name, or None; ``from_moments`` gives it if
            the inner products were measured, and so does ``PerSampleGradients`` for a batch in
            one chunk. It holds no tensors.
        by_group: norms of every parameter group by name, of ``layer_statistics(groups=...)``, or
            None.
        spectral: what spectral descent sees of every matrix that was asked for, by parameter name,
            or None.
        spread: how norms and inner products vary over the samples, where the two vectors are not
            at hand, as over several ranks; of them ``noise_estimate`` is made. Else None.
        agreement: of a source in several processes, whose samples these are and what was decided
            by them; None in a process alone.

    Raises:
        ValueError: for a batch size below one.

    Example:
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> batch = GradientStatistics(batch_size=2, mean_sq_norm=8.0, sum_sq_norms=18.0)
        >>> batch.variance_norm, batch.gradient_diversity
        (2.0, 0.5625)
    """

    batch_size: int
    mean_sq_norm: float
    sum_sq_norms: float
    sq_norms: Tensor | None = field(default=None, repr=False)
    inner_products: Tensor | None = field(default=None, repr=False)
    sum_sq_inner_products: float | None = None
    variance: dict[str, Tensor] | None = field(default=None, repr=False)
    mean_gradient: dict[str, Tensor] | None = field(default=None, repr=False)
    loss: float | None = None
    halves_cosine: float | None = None
    by_parameter: dict[str, GradientStatistics] | None = field(default=None, repr=False)
    spectral: dict[str, SpectralNoise] | None = field(default=None, repr=False)
    agreement: Agreement | None = field(default=None, repr=False)
    spread: SampleSpread | None = field(default=None, repr=False)
    by_group: dict[str, GradientStatistics] | None = field(default=None, repr=False)
    covariance_products: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    @classmethod
    def from_moments(
        cls, moments: Mapping[str, BatchMoments], *, loss: float | None = None
    ) -> GradientStatistics:
        """The record of a batch whose parameters were measured one by one.

        Squared norms and inner products add up over the parameters.

        Args:
            moments: what ``ops.batch_moments`` or ``ops.batch_adagrad_step_`` returned, by
                parameter name; all of the same samples.
            loss: mean loss of the batch.

        Raises:
            ValueError: for no parameters, or parameters with different numbers of samples.
        """
        sizes = {name: len(measured.sq_norms) for name, measured in moments.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"moments must hold one or more parameters with the same samples, got {sizes}"
            )
        sq_norms = torch.stack([m.sq_norms for m in moments.values()]).sum(0)
        mean = {name: m.mean for name, m in moments.items()}
        variances = {name: m.variance for name, m in moments.items() if m.variance is not None}
        by_name = [m.inner_products for m in moments.values() if m.inner_products is not None]
        products = torch.stack(by_name).sum(0).double() if len(by_name) == len(moments) else None
        # Read together: the host waits for the device once.
        scalars = [squared_norm(mean.values()), sq_norms.sum()]
        if products is not None:
            scalars += [products.square().sum(), *(_scalars(m) for m in moments.values())]
        (mean_sq_norm,), (sum_sq_norms,), *others = on_host(scalars)
        record = cls(
            batch_size=len(sq_norms),
            mean_sq_norm=mean_sq_norm,
            sum_sq_norms=sum_sq_norms,
            sq_norms=sq_norms,
            variance=variances if len(variances) == len(moments) else None,
            mean_gradient=mean,
            loss=loss,
        )
        if products is None:
            return record
        (sum_sq_products,), *own = others
        parts = {
            name: cls(record.batch_size, signal, squares, sum_sq_inner_products=along)
            for name, (signal, squares, along) in zip(moments, own, strict=True)
        }
        return replace(
            record,
            inner_products=products,
            sum_sq_inner_products=sum_sq_products,
            by_parameter=parts,
        )

    def with_inner_products(self, inner_products: Tensor) -> GradientStatistics:
        """This record with the inner products of its samples with its mean gradient.

        Args:
            inner_products: ``[batch_size]``, in the order of the samples.

        Raises:
            ValueError: for another number of inner products than samples.
        """
        if inner_products.shape != (self.batch_size,):
            raise ValueError(
                f"inner_products has shape {tuple(inner_products.shape)}; "
                f"accepted is ({self.batch_size},), one for each sample of this record"
            )
        inner_products = inner_products.double()
        return replace(
            self,
            inner_products=inner_products,
            sum_sq_inner_products=inner_products.square().sum().item(),
            covariance_products=None,
            by_parameter=None,
            spread=None,
        )

    @property
    def variance_norm(self) -> float:
        """V_norm, the trace of the per-sample gradients' covariance (Byrd et al. 2012, eq. 3.9).

        Raises:
            ValueError: for a batch of one.
        """
        return self._bessel(self.sum_sq_norms - self.batch_size * self.mean_sq_norm)

    @property
    def inner_product_variance(self) -> float:
        """V_ip, the variance of <g_i, g> (Bollapragada, Byrd, Nocedal 2018, eq. 2.6).

        Raises:
            ValueError: for a batch of one.
            MissingStatisticError: where no inner products were measured.
        """
        sum_sq = self._require_sum_sq_inner_products()
        return self._bessel(sum_sq - self.batch_size * self.mean_sq_norm * self.mean_sq_norm)

    @property
    def orthogonal_variance(self) -> float:
        """V_orth, the variance orthogonal to the mean (Bollapragada et al. 2018, eq. 3.3).

        Raises:
            ValueError: for a batch of one.
            MissingStatisticError: where no inner products were measured.
        """
        sum_sq = self._require_sum_sq_inner_products()
        along = sum_sq / self.mean_sq_norm if self.mean_sq_norm else 0.0
        return self._bessel(self.sum_sq_norms - along)

    @property
    def gradient_diversity(self) -> float:
        """Sum of the squared norms over the squared norm of the sum (Yin et al. 2018, eq. 2)."""
        return _ratio(self.sum_sq_norms, self.mean_sq_norm * self.batch_size * self.batch_size)

    @property
    def noise_scale(self) -> float:
        """tr(Σ) / |G|² by its unbiased parts, V_norm / (N - V_norm / b) (McCandlish et al. 2018).

        Infinite where the estimate of |G|² is not positive.

        Raises:
            ValueError: for a batch of one.
        """
        signal = self.mean_sq_norm - self.variance_norm / self.batch_size
        return math.inf if signal <= 0.0 else self.variance_norm / signal

    @property
    def noise_estimate(self) -> NoiseEstimate:
        """V_norm and |G|² with their covariance over samples, for confidence intervals.

        Raises:
            ValueError: for fewer than 4 samples.
            MissingStatisticError: where norms or inner products of the samples are missing.
        """
        spread = self.spread
        if spread is None:
            spread = spread_of(self.sq_norms, self.inner_products)
        if spread.samples != self.batch_size:
            raise ValueError(
                f"spread is of {spread.samples} samples, and this record of {self.batch_size}: add "
                "up the SampleSpread of all micro-batches and ranks"
            )
        return spread.estimate()

    @property
    def ratio_estimates(self) -> tuple[RatioEstimate, RatioEstimate]:
        """V_ip / N² and V_orth / N with their variances, for confidence intervals.

        Raises:
            ValueError: for fewer than 4 samples.
            MissingStatisticError: where ``covariance_products`` were not measured.
        """
        vectors = (self.sq_norms, self.inner_products, self.covariance_products)
        norms, products, turned = vectors
        if norms is None or products is None or turned is None:
            raise MissingStatisticError(
                "error bars of V_ip and V_orth need covariance_products, the product of every "
                "sample's gradient with S g, S their covariance; ask the source with "
                "PerSampleGradients(..., covariance_products=True) or "
                "recorder.statistics(losses=..., covariance_products=True), in one process"
            )
        return ratio_estimates(norms, products, turned)

    @property
    def stages(self) -> Stages | None:
        """Of a pipeline, each of which has the coordinates of its own parameters; else None."""
        return None if self.agreement is None else self.agreement.stages

    @property
    def is_finite(self) -> bool:
        """Whether every scalar that was measured from the gradients is finite."""
        scalars = (self.mean_sq_norm, self.sum_sq_norms, self.sum_sq_inner_products)
        return all(value is None or math.isfinite(value) for value in scalars)

    def merge(self, other: GradientStatistics) -> GradientStatistics:
        r"""The record of the samples of both, as exact as one pass over all of them.

        With :math:`n = n_a + n_b` samples and :math:`\delta = \bar g_b - \bar g_a`,

        .. math::
            \bar g = \bar g_a + \tfrac{n_b}{n} \delta, \qquad
            (n-1) \mathrm{Var} = (n_a-1) \mathrm{Var}_a + (n_b-1) \mathrm{Var}_b
            + \tfrac{n_a n_b}{n} \delta^2

        (Chan, Golub, LeVeque 1979, eq. 2.1). What only one of the two records measured is None in
        the result. So are the inner products: they refer to the merged mean, which neither record
        knew. ``StatisticsAccumulator`` measures them in a second pass. Two equally large records
        are the halves of ``halves_cosine``, which refers to the last merge and is None otherwise.

        Raises:
            MissingStatisticError: where a record has no mean gradient.
            ValueError: for records of different parameters.
            UnsupportedModelError: for those of a pipeline, whose gradients no stage has whole.
        """
        return _pooled(self, other)

    def require_mean_gradient(self) -> dict[str, Tensor]:
        """The mean gradient by parameter name.

        Raises:
            MissingStatisticError: where the source did not keep it.
        """
        if self.mean_gradient is None:
            raise MissingStatisticError(
                "this record has no mean_gradient, which a merge and a test of every coordinate "
                "need; take the record from layer_statistics, PerSampleGradients or "
                "GradientStatistics.from_moments"
            )
        return self.mean_gradient

    def require_variance(self) -> dict[str, Tensor]:
        """The variance of every coordinate by parameter name.

        Raises:
            ValueError: for a batch of one.
            MissingStatisticError: where it was not measured.
        """
        self._require_two_samples()
        if self.variance is None:
            raise MissingStatisticError(
                "the coordinate-wise variance was not measured; ask the source for it with "
                "layer_statistics(..., variance=True) or PerSampleGradients(..., variance=True)"
            )
        return self.variance

    def require_by_parameter(self) -> dict[str, GradientStatistics]:
        """The scalars of every parameter by name, those of the inner products among them.

        Raises:
            MissingStatisticError: where the source did not keep them.
        """
        if self.by_parameter is None:
            raise MissingStatisticError(
                "the inner products of the single parameters were not kept; "
                "GradientStatistics.from_moments keeps them, and PerSampleGradients(..., "
                "inner_products=True) where all samples fit into one chunk: raise max_bytes"
            )
        return self.by_parameter

    def require_by_group(self) -> dict[str, GradientStatistics]:
        """The norms of every parameter group, by its name.

        Raises:
            MissingStatisticError: where the source did not keep them.
        """
        if self.by_group is None:
            raise MissingStatisticError(
                "the norms of parameter groups were not kept; ask the source for them with "
                "layer_statistics(model, groups=GroupBatches.groups)"
            )
        return self.by_group

    def require_spectral(self) -> dict[str, SpectralNoise]:
        """What spectral descent sees of every matrix, by parameter name.

        Raises:
            MissingStatisticError: where it was not measured.
        """
        if not self.spectral:
            raise MissingStatisticError(
                "what spectral descent sees was not measured; ask the source for it with "
                "MicroBatchGradients(model, matrices=[...]), names of the matrices that it updates"
            )
        return self.spectral

    def _require_two_samples(self) -> None:
        if self.batch_size < 2:
            raise ValueError(
                "a variance needs at least two samples, and this record has one; keep the batch "
                "size, or test with batches of two or more"
            )

    def _bessel(self, deviations: float) -> float:
        """A sum of squared deviations as a variance; NaN stays NaN."""
        self._require_two_samples()
        return 0.0 if deviations < 0.0 else deviations / (self.batch_size - 1)

    def _require_sum_sq_inner_products(self) -> float:
        if self.sum_sq_inner_products is None:
            raise MissingStatisticError(
                "inner products were not measured; ask the source for them with layer_statistics("
                "..., inner_products=True) or PerSampleGradients(..., inner_products=True), or for "
                "merged records with StatisticsAccumulator.result(inner_products=...)"
            )
        return self.sum_sq_inner_products


def _scalars(moments: BatchMoments) -> Tensor:
    """N, the sum of the squared norms and that of the squared inner products of one parameter."""
    assert moments.inner_products is not None
    sum_sq_products = moments.inner_products.double().square().sum()
    sum_sq_norms = moments.sq_norms.double().sum()
    return torch.stack([squared_norm([moments.mean]), sum_sq_norms, sum_sq_products])


def _ratio(numerator: float, denominator: float) -> float:
    """A quotient of non-negative numbers that is infinite, or NaN for 0/0, instead of raising."""
    if denominator == 0.0:
        return math.inf if numerator > 0.0 else math.nan
    return numerator / denominator


def _pooled(first: GradientStatistics, second: GradientStatistics) -> GradientStatistics:
    """One record of all samples of two (Chan, Golub, LeVeque 1979)."""
    if first.stages is not None or second.stages is not None:
        raise UnsupportedModelError(
            "records of a pipeline do not merge: each stage has the gradients of its own "
            "parameters alone. Way out: one statistics() for all micro-batches of a step"
        )
    ours, theirs = first.require_mean_gradient(), second.require_mean_gradient()
    if ours.keys() != theirs.keys():
        raise ValueError(
            "only records of the same parameters merge, and only one of the two has "
            f"{sorted(ours.keys() ^ theirs.keys())}; merge records of one model, measured alike"
        )
    samples = first.batch_size + second.batch_size
    weight = second.batch_size / samples
    mean = {name: torch.lerp(ours[name], theirs[name], weight) for name in ours}
    mean_sq_norm = squared_norm(mean.values()).item()
    sq_norms = None
    if first.sq_norms is not None and second.sq_norms is not None:
        sq_norms = torch.cat([first.sq_norms, second.sq_norms])
    loss = None
    if first.loss is not None and second.loss is not None:
        loss = (first.loss * first.batch_size + second.loss * second.batch_size) / samples
    cosine = None
    if first.batch_size == second.batch_size:
        cosine = cosine_of_parts(4 * mean_sq_norm, first.mean_sq_norm, second.mean_sq_norm)
    return replace(
        first,
        batch_size=samples,
        mean_sq_norm=mean_sq_norm,
        sum_sq_norms=first.sum_sq_norms + second.sum_sq_norms,
        sq_norms=sq_norms,
        inner_products=None,
        sum_sq_inner_products=None,
        variance=_pooled_variance(first, second),
        mean_gradient=mean,
        loss=loss,
        halves_cosine=cosine,
        by_parameter=None,
        by_group=None,
        covariance_products=None,
        spectral=None,
        spread=None,
    )


def _pooled_variance(
    first: GradientStatistics, second: GradientStatistics
) -> dict[str, Tensor] | None:
    if first.variance is None or second.variance is None:
        return None
    ours, theirs = first.require_mean_gradient(), second.require_mean_gradient()
    samples = first.batch_size + second.batch_size
    between = first.batch_size * second.batch_size / samples
    return {
        name: (
            (theirs[name] - ours[name]).square_().mul_(between)
            + first.variance[name] * (first.batch_size - 1)
            + second.variance[name] * (second.batch_size - 1)
        ).div_(samples - 1)
        for name in ours
    }
