"""Noise and signal of matrices as spectral descent sees them: sums of roots of eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Roots of eigenvalues below this fraction of the largest possible one are met in part: Z grows to
#: its inverse, and beyond float32 would have no digit left.
_SMALLEST_ROOT = 1e-3


@dataclass(frozen=True)
class SpectralNoise:
    r"""What the gradients of one matrix W say about spectral descent, such as Muon.

    Steps of bounded spectral norm are steepest along the orthogonal factor of the gradient, and
    gain its nuclear norm, the sum of its singular values (arXiv 2602.03001 takes this dual norm).
    With :math:`g_i` the gradients of the samples, :math:`\bar g` the mean of b of them and
    :math:`S = \mathbb{E} (g_i - \mathbb{E} g_i)(g_i - \mathbb{E} g_i)'`,

    .. math:: \mathbb{E} \lVert \bar g - \mathbb{E} \bar g \rVert_* \le
        \mathrm{tr} \sqrt{S} / \sqrt{b},

    by Jensen's inequality, since the trace of the root is concave.

    Attributes:
        noise: :math:`\mathrm{tr} \sqrt{S}`, of the shorter side of W.
        signal: :math:`\lVert \bar g \rVert_*`.

    Example:
        >>> from adadagrad_kernels.statistics import SpectralNoise
        >>> SpectralNoise(noise=6.0, signal=2.0)
        SpectralNoise(noise=6.0, signal=2.0)
    """

    noise: float
    signal: float


@torch.no_grad()
def noise_and_signal(squares: Tensor, mean: Tensor, samples: int, count: int) -> Tensor:
    r"""From the gradients of C micro-batches.

    With :math:`m_c` samples and mean gradients :math:`g_c`, the estimate

    .. math:: \hat S = \frac{1}{C-1} \Bigl( \sum_c m_c\, g_c g_c' - b\, \bar g \bar g' \Bigr)

    has the expectation S for any sizes.

    Args:
        squares: the sum of :math:`m_c g_c g_c'`, by ``shorter_product``.
        mean: the mean gradient of all samples.
        samples: b.
        count: C, at least 2.

    Returns:
        ``[2]``, the numbers of a ``SpectralNoise``, on the device: they are read together.
    """
    of_mean = shorter_product(mean)
    noise = (squares - of_mean * samples) / (count - 1)
    return torch.stack([root_trace(noise), root_trace(of_mean)])


def shorter_product(matrix: Tensor) -> Tensor:
    """G G' or G' G, the smaller one, whose non-zero eigenvalues agree.

    In float64 on a CPU, which has the digits of small singular values; in float32 elsewhere.
    """
    matrix = matrix.to(torch.float64 if matrix.device.type == "cpu" else torch.float32)
    rows, columns = matrix.shape
    return matrix.mm(matrix.t()) if rows <= columns else matrix.t().mm(matrix)


def root_trace(squares: Tensor) -> Tensor:
    r""":math:`\mathrm{tr} \sqrt{A}` of a symmetric positive semidefinite matrix.

    A CPU takes the eigenvalues, without vectors, in less time than the products of an iteration; a
    GPU the reverse. Eigenvalues that rounding made negative count as zero.

    Args:
        squares: A, ``[n, n]``.

    Returns:
        0-dimensional, float64, on the CPU or the device; NaN where A holds what is not finite.
    """
    if not squares.is_cuda:
        if not squares.isfinite().all():
            return squares.new_tensor(math.nan, dtype=torch.float64)
        eigenvalues: Tensor = torch.linalg.eigvalsh(squares.double())
        return eigenvalues.clamp_min(0).sqrt().sum()
    return root_trace_by_products(squares)


@torch.no_grad()
def root_trace_by_products(squares: Tensor) -> Tensor:
    r"""The same by products of matrices alone, in float32, to about 1e-3.

    The coupled Newton-Schulz iteration (Higham, Functions of Matrices, 2008, section 6.3), from
    :math:`Y = A / \lVert A \rVert_F` and Z = I,

    .. math:: T = \tfrac{3}{2} \alpha I - \tfrac{1}{2} \alpha^3 Z Y, \qquad
        Y \leftarrow Y T, \qquad Z \leftarrow T Z,

    has Y converge to the root. Each :math:`\alpha = \sqrt{3 / (1 + l + l^2)}` lifts the smallest
    root l that is still to be met as far as it goes (Chen, Chow 2014), which takes half as many
    iterations as :math:`\alpha = 1`.
    """
    # By the trace first, since squares of the elements might overflow.
    total = squares.diagonal().sum()
    y = (squares / torch.where(total == 0, 1, total)).float()
    scale = torch.linalg.matrix_norm(y)
    y = y / torch.where(scale == 0, 1, scale)
    identity = torch.eye(len(y), dtype=y.dtype, device=y.device)
    z, least = identity, _SMALLEST_ROOT
    while least < 1 - 1e-7:
        alpha = math.sqrt(3 / (1 + least + least * least))
        t = torch.addmm(identity, z, y, beta=1.5 * alpha, alpha=-0.5 * alpha**3)
        y, z = y.mm(t), t.mm(z)
        least = 1.5 * alpha * least - 0.5 * (alpha * least) ** 3
    root: Tensor = y.diagonal().double().sum() * (scale.double() * total.double()).sqrt()
    return root
