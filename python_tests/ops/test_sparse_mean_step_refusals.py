"""What sparse_mean_step_ refuses: what was given, what is accepted, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from adadagrad_kernels.ops import CsrRows, sparse_mean_step_

Change = Callable[[dict[str, Any]], None]


def arguments() -> dict[str, Any]:
    return {
        "param": torch.ones(6),
        "per_sample_grads": CsrRows(
            torch.tensor([0, 2, 2, 4]), torch.tensor([0, 5, 3, 0]), torch.ones(4)
        ),
        "lr": 0.1,
        "state_sum": torch.ones(6),
    }


def assign(**values: Any) -> Change:
    return lambda given: given.update(values)


def rows(**parts: Any) -> Change:
    def change(given: dict[str, Any]) -> None:
        given["per_sample_grads"] = given["per_sample_grads"]._replace(**parts)

    return change


def ints(*values: int, kind: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor(values, dtype=kind)


def shared(name: str) -> Change:
    """Another argument that lies in the parameter's memory."""

    def change(given: dict[str, Any]) -> None:
        memory = torch.ones(8)
        given["param"] = memory[:6]
        if name == "values":
            given["per_sample_grads"] = given["per_sample_grads"]._replace(values=memory[2:6])
        elif name == "col_indices":
            columns = memory[:4].view(torch.int32).zero_()
            starts = given["per_sample_grads"].crow_indices.int()
            given["per_sample_grads"] = CsrRows(starts, columns, torch.ones(4))
        else:
            given[name] = memory[2:]

    return change


RIDGE = {"ridge": 0.1, "probabilities": torch.ones(6)}
CASES = [
    ("a column too high", rows(col_indices=ints(0, 6, 3, 0)), ("from 0 to 6", "0 to 5")),
    ("a column far off", rows(col_indices=ints(0, 1 << 40, 3, 0)), ("1099511627776", "0 to 5")),
    ("a negative column", rows(col_indices=ints(0, -1, 3, 0)), ("from -1 to 3", "0 to 5")),
    ("the same with a ridge", lambda g: (rows(col_indices=ints(0, 9, 3, 0))(g), g.update(RIDGE)),
     ("from 0 to 9",)),
    ("rows that fall", rows(crow_indices=ints(0, 3, 2, 4)), ("falls from 3 to 2", "row 1")),
    ("rows that start late", rows(crow_indices=ints(1, 2, 2, 4)), ("from 1 to 4", "0 to 4")),
    ("rows that end early", rows(crow_indices=ints(0, 2, 2, 3)), ("from 0 to 3", "0 to 4")),
    ("rows beyond the entries", rows(crow_indices=ints(0, 9, 9, 4)), ("falls from 9 to 4",)),
    ("no row starts", rows(crow_indices=ints()), ("(0,)", "[samples + 1]")),
    ("row starts in two dimensions", rows(crow_indices=ints(0, 4)[None]), ("(1, 2)",)),
    ("fewer columns", rows(col_indices=ints(0, 5, 3)), ("(3,)", "(4,)", "one column for each")),
    ("real columns", rows(col_indices=torch.ones(4)), ("float32", "must agree")),
    ("two types of indices", rows(col_indices=ints(0, 1, 2, 3, kind=torch.int32)),
     ("int64", "int32", "must agree")),
    ("a list of columns", rows(col_indices=[0, 1, 2, 3]), ("col_indices", "list")),
    ("another dtype", rows(values=torch.ones(4).double()), ("float64", "float32", "must agree")),
    ("integers", rows(values=ints(1, 1, 1, 1)), ("int64", "accepted are torch.float32")),
    ("values with a graph", rows(values=torch.ones(4, requires_grad=True)), ("requires grad",)),
    ("a parameter with a graph", assign(param=torch.ones(6, requires_grad=True)), ("no_grad",)),
    ("values that are not there", rows(values=torch.ones(4, device="meta")), ("no storage",)),
    ("rows of other features", assign(per_sample_grads=torch.ones(2, 5)),
     ("(2, 5)", "6 elements", "[samples, 6]")),
    ("one dimension", assign(per_sample_grads=torch.ones(6)), ("(6,)", "[samples, 6]")),
    ("no tensor", assign(per_sample_grads=[1.0]), ("per_sample_grads", "list")),
    ("a sparse tensor", assign(per_sample_grads=torch.eye(6).to_sparse()), ("torch.sparse_coo",)),
    ("another mode", assign(mode="median"), ("'median'", "adabatch, mean, sum")),
    ("a ridge alone", assign(ridge=0.1), ("ridge is 0.1", "needs probabilities")),
    ("a probability of zero", assign(ridge=0.1, probabilities=torch.zeros(6)),
     ("probabilities has 0", "above 0")),
    ("a probability above one", assign(ridge=0.1, probabilities=torch.full((6,), 1.5)),
     ("1.5", "up to 1")),
    ("no probability", assign(ridge=0.1, probabilities=torch.full((6,), float("nan"))), ("nan",)),
    ("probabilities of others", assign(ridge=0.1, probabilities=torch.ones(5)), ("(5,)", "(6,)")),
    ("an offset in float64", assign(offset=torch.ones(6).double()), ("float64", "float32")),
    ("another state", assign(state_sum=torch.ones(5)), ("state_sum", "(5,)", "(6,)")),
    ("a parameter with holes", assign(param=torch.ones(12)[::2]), ("holes",)),
    ("a transposed parameter", assign(param=torch.ones(3, 2).T, state_sum=None), ("contiguous",)),
    *((f"{name} in the parameter", shared(name), ("overlap", name.replace("values", "per_sample")))
      for name in ("values", "col_indices", "offset", "state_sum")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
@pytest.mark.parametrize("backend", ["cpu", "reference"], indirect=False)
def test_refuses(backend: str, change: Change, words: tuple[str, ...]) -> None:
    from adadagrad_kernels import use_backend
    from adadagrad_kernels.backends import BACKENDS

    reason = BACKENDS[backend].unavailable()
    if reason is not None:
        pytest.skip(reason)
    given = arguments()
    change(given)
    written = [given["param"], given["state_sum"]]
    before = [None if tensor is None else tensor.detach().clone() for tensor in written]
    with use_backend(backend), pytest.raises(ValueError, match=r".") as caught:
        sparse_mean_step_(**given)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    for tensor, copy in zip(written, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy)


def test_the_arguments_are_right_as_they_are() -> None:
    given = arguments()
    sparse_mean_step_(**given, **RIDGE)
    assert given["param"].ne(1).nonzero().flatten().tolist() == [0, 3, 5]


@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
def test_a_column_that_is_none_among_many(kind: torch.dtype) -> None:
    """In the last of several blocks, which threads read at the same time."""
    columns = torch.arange(100_000, dtype=kind) % 6
    columns[-1] = -1
    given = CsrRows(torch.arange(0, 100_001, 5, dtype=kind), columns, torch.ones(100_000))
    param = torch.ones(6)
    with pytest.raises(ValueError, match="from -1 to 5"):
        sparse_mean_step_(param, given, lr=0.1)
    assert (param == 1).all()
