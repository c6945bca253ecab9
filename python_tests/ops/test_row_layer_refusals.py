"""What norm_layer_moments and embedding_moments refuse: what was given, what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from adadagrad_kernels.ops import embedding_moments, norm_layer_moments

Change = Callable[[dict[str, Any]], None]


def norm_arguments() -> dict[str, Any]:
    return {
        "inputs": torch.randn(4, 3, 6),
        "grad_outputs": torch.randn(4, 3, 6),
        "mean": torch.randn(4, 3, 1),
        "rstd": torch.rand(4, 3, 1),
    }


def embedding_arguments() -> dict[str, Any]:
    return {
        "indices": torch.randint(5, (4, 3)),
        "grad_outputs": torch.randn(4, 3, 6),
        "num_embeddings": 5,
    }


def assign(**values: Any) -> Change:
    return lambda arguments: arguments.update(values)


BOTH = [
    ("another dtype", assign(grad_outputs=torch.randint(3, (4, 3, 6))), ("int64", "float32")),
    ("a list", assign(grad_outputs=[1.0]), ("torch.Tensor", "list")),
    ("no samples", assign(grad_outputs=torch.randn(0, 3, 6)), ("at least one sample", "(0, 3, 6)")),
    ("one dimension", assign(grad_outputs=torch.randn(6)), ("[samples, ...", "(6,)")),
    ("no storage", assign(grad_outputs=torch.randn(4, 3, 6, device="meta")), ("no storage",)),
    ("a sparse tensor", assign(grad_outputs=torch.eye(4).to_sparse()), ("sparse", "strided")),
]

NORMS = [
    ("another shape", assign(inputs=torch.randn(4, 3, 5)), ("(4, 3, 5)", "(4, 3, 6)")),
    ("other samples", assign(inputs=torch.randn(2, 3, 6)), ("(2, 3, 6)", "same samples")),
    ("two types", assign(inputs=torch.randn(4, 3, 6).double()), ("float64", "must agree")),
    ("two dimensions", assign(inputs=torch.randn(4, 6), grad_outputs=torch.randn(4, 6)),
     ("[samples, positions, features]",)),
    ("rstd of another shape", assign(rstd=torch.rand(4, 1)), ("rstd is (4, 1)", "(4, 3, 1)")),
    ("groups that do not divide", assign(rstd=torch.rand(4, 1, 4)), ("rstd", "divide 6 features")),
    ("a mean of another shape", assign(mean=torch.rand(4, 1, 3)), ("mean", "must agree")),
    ("a mean in float64", assign(mean=torch.rand(4, 3, 1).double()), ("mean", "float64")),
]  # fmt: skip

EMBEDDINGS = [
    ("real indices", assign(indices=torch.rand(4, 3)), ("float32", "int64 and int32")),
    ("other positions", assign(indices=torch.ones(4, 2, dtype=torch.long)), ("(4, 2)", "agree")),
    ("an index too high", assign(num_embeddings=3, indices=torch.tensor([[0, 3, 1]] * 4)),
     ("from 0 to 3", "0 to 2")),
    ("a negative index", assign(indices=torch.full((4, 3), -1)), ("from -1 to -1", "0 to 4")),
    ("padding too high", assign(padding_idx=5), ("padding_idx", "0 to 4", "got 5")),
    ("padding too low", assign(padding_idx=-2), ("padding_idx", "got -2")),
]  # fmt: skip

CASES = [
    *((norm_layer_moments, norm_arguments, *case) for case in (*BOTH, *NORMS)),
    *((embedding_moments, embedding_arguments, *case) for case in (*BOTH, *EMBEDDINGS)),
]


@pytest.mark.parametrize(
    ("op", "make", "change", "words"),
    [(op, make, change, words) for op, make, _, change, words in CASES],
    ids=[f"{op.__name__}: {name}" for op, _, name, _, _ in CASES],
)
def test_refuses(
    op: Callable[..., Any], make: Callable[[], dict[str, Any]], change: Change,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    arguments = make()
    change(arguments)
    before = {n: t.clone() for n, t in arguments.items() if isinstance(t, Tensor) and not t.is_meta}
    with pytest.raises(ValueError, match=r".") as caught:
        op(**arguments)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    for name, tensor in before.items():
        if not tensor.is_sparse:
            assert torch.equal(tensor, arguments[name])


@pytest.mark.parametrize(
    ("op", "make"),
    [(norm_layer_moments, norm_arguments), (embedding_moments, embedding_arguments)],
)
def test_a_variance_of_one_sample(op: Callable[..., Any], make: Callable[[], Any]) -> None:
    arguments = {n: t[:1] if isinstance(t, Tensor) else t for n, t in make().items()}
    with pytest.raises(ValueError, match="at least two samples"):
        op(**arguments, variance=True)
    assert len(op(**arguments).sq_norms) == 1
