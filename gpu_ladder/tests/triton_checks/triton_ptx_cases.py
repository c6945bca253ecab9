"""Calls of the Triton backend and their oracles, for tests that execute its PTX."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_TESTS = Path(__file__).resolve().parents[3] / "python_tests"
sys.path[:0] = [str(_TESTS), str(Path(__file__).parent / "interpreted")]

from support import layer_oracles, oracles, sparse_oracle  # noqa: E402
from support.sparse_calls import compressed  # noqa: E402
from support.tolerances import assert_within, extended, sq_norm_tolerance  # noqa: E402

from adadagrad_kernels.backends import triton as backend  # noqa: E402
from adadagrad_kernels.backends.outputs import BatchMoments, LayerMoments  # noqa: E402
from adadagrad_kernels.backends.rule import AdagradRule  # noqa: E402
from adadagrad_kernels.ops import CsrRows  # noqa: E402

#: One tile and several, aligned and not, all rows at once and cut, few columns and many.
MOMENTS = [(1, 17), (2, 0), (9, 31), (31, 512), (64, 1001), (130, 200), (256, 64), (513, 33),
           (600, 300)]  # fmt: skip
CHUNKS = [(1, 17), (2, 0), (9, 31), (31, 512), (64, 1001), (130, 200), (600, 300)]
#: Samples, positions, features, groups of those or none, and what lies side by side: strips and
#: tiles that are not whole, positions cut into parts, vectors along either.
NORMS = [(3, 600, 130, None, "features"), (2, 5, 33, 3, "positions"), (2, 72, 32, 2, "positions"),
         (3, 17, 128, 4, "mixed")]  # fmt: skip
#: Samples, positions, features, rows of the weight, padding: runs longer than a tile, rows without
#: any, strips that are not whole, vectors.
EMBEDDINGS = [(3, 30, 257, 5, -1), (9, 4, 64, 7, 2), (1, 1, 1, 1, -1)]
#: Samples, features, share of what is not zero, stored or among zeros.
SPARSE = [(40, 9, 0.3, True), (300, 2, 0.9, True), (17, 130, 0.2, False), (3, 64, 0.5, False)]
LISTS = [(4099,), (), (0,), (7,), (8, 9), (3, 1100), (33, 5), (2048,)]
RULE = oracles.Rule(lr=0.1, eps=1e-3, weight_decay=0.01, maximize=True, grad_scale=3.0)


class Case(NamedTuple):
    """A call, and what must hold of its results."""

    run: Callable[[], list[Tensor]]
    judge: Callable[[], None]


def make_case(op: str, dtype: torch.dtype, shape: tuple[Any, ...] | None = None) -> Case:
    """A call of an op by name; statistics of ``shape``, updates of `LISTS`."""
    torch.manual_seed(0)
    if op == "batch_moments":
        return _moments(dtype, *shape)
    if op == "accumulate_moments_":
        return _accumulate(dtype, *shape)
    if op == "batch_adagrad_step_":
        return _moments_and_step(dtype, *shape)
    if op in _OF_LAYERS:
        return _OF_LAYERS[op](dtype, *shape)
    if op == "adagrad_step_":
        return _step(dtype)
    return _norm_step(dtype, op.endswith("rows"))


def _given(outputs: list[Tensor | None]) -> list[Tensor]:
    return [output for output in outputs if output is not None]


def _moments(dtype: torch.dtype, samples: int, features: int) -> Case:
    grads, expected = oracles.shared_case(samples, features, dtype)
    outputs: list[Tensor | None] = []

    def run() -> list[Tensor]:
        outputs[:] = backend.batch_moments(grads, samples > 1, True)
        return _given(outputs)

    return Case(run, lambda: oracles.assert_moments(BatchMoments(*outputs), expected))


def _accumulate(dtype: torch.dtype, samples: int, features: int) -> Case:
    """A third of the rows first, and then the others."""
    rows, _ = oracles.shared_case(samples, features, dtype)
    sums = torch.full((2, features), torch.nan)
    norms = torch.full((samples,), torch.nan, dtype=torch.float64)

    def run() -> list[Tensor]:
        first = (samples + 2) // 3
        for start, stop in ((0, first), (first, samples)):
            if start < stop:
                backend.accumulate_moments_(*sums, norms[start:stop], rows[start:stop], start)
        return [sums, norms]

    return Case(run, lambda: oracles.assert_accumulated(*sums, norms, rows))


def _moments_and_step(dtype: torch.dtype, samples: int, features: int) -> Case:
    grads, expected = oracles.shared_case(samples, features, dtype)
    before = torch.randn(features).to(dtype), (torch.rand(features) + 0.1).to(dtype)
    after = tuple(tensor.clone() for tensor in before)
    rule = RULE._replace(grad_scale=1.0)
    outputs: list[Tensor | None] = []

    def run() -> list[Tensor]:
        given = AdagradRule(*rule)
        outputs[:] = backend.batch_adagrad_step_(*after, grads, given, samples > 1, True)
        return [*_given(outputs), *after]

    def judge() -> None:
        oracles.assert_moments(BatchMoments(*outputs), expected)
        oracles.assert_adagrad(after, before, expected.mean[0], rule, expected.mean[1])

    return Case(run, judge)


def _norm_layer(
    dtype: torch.dtype,
    samples: int,
    positions: int,
    features: int,
    groups: int | None,
    adjacent: str,
) -> Case:
    tensors = [torch.randn(samples, positions, features).to(dtype) for _ in range(2)]
    turned = {"features": 0, "mixed": 1, "positions": 2}[adjacent]
    tensors[:turned] = [tensor.mT.contiguous().mT for tensor in tensors[:turned]]
    shape = (samples, 1, groups) if groups else (samples, positions, 1)
    # With a mean, and without a shift where there is none.
    mean, bias = (None, False) if groups == 4 else (torch.randn(shape), True)
    given = (*tensors, mean, torch.rand(shape) + 0.5)
    outputs: list[Tensor | None] = []

    def run() -> list[Tensor]:
        outputs[:] = backend.norm_layer_moments(*given, bias, True, True)
        return _given(outputs)

    expected = layer_oracles.norm_layer(*given)
    return Case(
        run, lambda: layer_oracles.assert_layer_moments(LayerMoments(*outputs), expected, bias)
    )


def _embedding(
    dtype: torch.dtype, samples: int, positions: int, features: int, rows: int, padding: int
) -> Case:
    indices = (torch.rand(samples, positions) ** 2 * rows).long()
    grads = torch.randn(samples, positions, features).to(dtype)
    outputs: list[Tensor | None] = []

    def run() -> list[Tensor]:
        outputs[:] = backend.embedding_moments(indices, grads, rows, padding, samples > 1, True)
        return _given(outputs)

    expected = layer_oracles.embedding(indices, grads, rows, padding)
    return Case(
        run, lambda: layer_oracles.assert_layer_moments(LayerMoments(*outputs), expected, False)
    )


def _sparse(dtype: torch.dtype, samples: int, features: int, share: float, stored: bool) -> Case:
    """Judged as soon as it has run; entries are stored twice, add up and count once."""
    dense = (torch.randn(samples, features) * (torch.rand(samples, features) < share)).to(dtype)
    starts, columns, values = compressed(dense)
    twice = CsrRows(2 * starts, columns.repeat_interleave(2), values.repeat_interleave(2))
    rows = twice if stored else dense
    param, state_sum = torch.randn(features).to(dtype), torch.rand(features).to(dtype)
    per_feature = {
        "probabilities": torch.rand(features) * 0.9 + 0.1, "offset": torch.randn(features)
    }  # fmt: skip

    def step(after: Tensor, rows: Tensor | CsrRows, state_sum: Tensor, **given: Any) -> Tensor:
        parts = rows if isinstance(rows, CsrRows) else (None, None, rows)
        return backend.sparse_mean_step_(
            after, *parts, given["lr"], "adabatch", given["ridge"], given["probabilities"],
            given["offset"], state_sum, 1e-10,
        )  # fmt: skip

    def run() -> list[Tensor]:
        settings = {"lr": 0.125, "ridge": 0.05, "state_sum": state_sum, **per_feature}
        return sparse_oracle.assert_step(param, rows, step_=step, **settings)

    return Case(run, lambda: None)


_OF_LAYERS = {
    "norm_layer_moments": _norm_layer,
    "embedding_moments": _embedding,
    "sparse_mean_step_": _sparse,
}


def _step(dtype: torch.dtype) -> Case:
    params = [torch.randn(shape).to(dtype) for shape in LISTS]
    grads = [torch.randn(shape).to(dtype) for shape in LISTS]
    sums = [torch.rand(shape).to(dtype) for shape in LISTS]
    before = [(p.clone(), s.clone()) for p, s in zip(params, sums, strict=True)]
    norm: list[Tensor] = []

    def run() -> list[Tensor]:
        norm[:] = [backend.adagrad_step_(params, grads, sums, AdagradRule(*RULE))]
        return [*norm, *params, *sums]

    def judge() -> None:
        for param, grad, total, old in zip(params, grads, sums, before, strict=True):
            oracles.assert_adagrad((param, total), old, extended(grad), RULE)
        _assert_norm(norm[0], grads)

    return Case(run, judge)


def _norm_step(dtype: torch.dtype, row_wise: bool) -> Case:
    params = [torch.randn(shape).to(dtype) for shape in LISTS]
    grads = [torch.randn(shape).to(dtype) for shape in LISTS]
    rows = [shape[0] if shape else 1 for shape in LISTS] if row_wise else [1]
    sums = [torch.rand(n, dtype=torch.float64) + 0.25 for n in rows]
    before = [p.clone() for p in params], [s.clone() for s in sums]
    norm: list[Tensor] = []

    def run() -> list[Tensor]:
        norm[:] = [backend.adagrad_norm_step_(params, grads, sums, row_wise, AdagradRule(*RULE))]
        return [*norm, *params, *sums]

    def judge() -> None:
        oracles.assert_adagrad_norm((params, sums), before, grads, RULE, row_wise)
        _assert_norm(norm[0], grads)

    return Case(run, judge)


def _assert_norm(norm: Tensor, grads: list[Tensor]) -> None:
    unscaled = [extended(grad).reshape(-1) / RULE.grad_scale for grad in grads]
    expected = sum((values**2).sum() for values in unscaled)
    allowed = sum(sq_norm_tolerance(v, g.dtype) for v, g in zip(unscaled, grads, strict=True))
    assert_within("sq_norm", norm, expected, allowed)


def bits(tensors: list[Tensor]) -> list[bytes]:
    """What must not depend on the architecture or the order of programs."""
    return [t.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for t in tensors]
