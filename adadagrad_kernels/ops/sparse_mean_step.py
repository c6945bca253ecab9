"""A step along AdaBatch's aggregate of sparse gradients: each coordinate over who touches it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.checks import (
    ACCUMULATION_DTYPES,
    check_csr,
    check_csr_indices,
    check_updated,
    require_disjoint,
    require_dtype,
    require_no_graph,
    require_plain,
)
from adadagrad_kernels.ops._library import register
from adadagrad_kernels.settings import check_step_numbers

#: What the sum over the samples that touch a coordinate is divided by: their number, the number of
#: all samples, or nothing.
MODES = ("adabatch", "mean", "sum")

#: Samples of rows with zeros are counted in the type of the sums, exactly up to here.
_MOST_DENSE_SAMPLES = 1 << 24


class CsrRows(NamedTuple):
    """Sparse rows, one for each sample, in compressed form as ``torch.sparse_csr`` has it.

    Row i has the entries from ``crow_indices[i]`` on and before ``crow_indices[i + 1]``, in any
    order of columns.

    Attributes:
        crow_indices: ``[samples + 1]``, int64 or int32, from 0 up to the number of entries.
        col_indices: ``[entries]``, of the same type.
        values: ``[entries]``.
    """

    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor


def sparse_mean_step_(
    param: Tensor,
    per_sample_grads: Tensor | CsrRows,
    *,
    lr: float,
    mode: str = "adabatch",
    ridge: float = 0.0,
    probabilities: Tensor | None = None,
    offset: Tensor | None = None,
    state_sum: Tensor | None = None,
    eps: float = 1e-10,
) -> Tensor:
    r"""AdaBatch's step (Defossez and Bach 2017, arXiv 1711.01761) along sparse gradients.

    With :math:`D_j` the samples whose gradient has coordinate j, and :math:`d_j f_i` that
    coordinate of sample i,

    .. math::
        d_j = \frac{1}{n_j} \sum_{i \in D_j}
            \Bigl( d_j f_i + c_j + \frac{\lambda}{p_j} w_j \Bigr), \qquad
        w_j \leftarrow w_j - \alpha\, d_j \quad \text{where } D_j \neq \emptyset,

    with :math:`n_j = |D_j|`, and in the modes ``mean`` and ``sum`` the number of samples and 1. A
    coordinate that one sample of the batch touches takes the whole step that this sample alone
    would make, and one that all touch the step of their mean; :math:`\alpha` is that of one
    sample. Coordinates that no sample touches are neither read nor written, and stored entries
    cost time in proportion to their number, whatever the size of ``param``.

    Threads each take coordinates, not samples, so this is also the synchronous parallel form of
    the paper, without locks, and bitwise the same for any number of threads.

    Args:
        param: w, contiguous, with as many elements as there are features; updated in place.
        per_sample_grads: ``[samples, features]``, where :math:`D_j` are the samples whose element
            is not zero; or ``CsrRows``, where they are those with a stored entry, zeros included.
            Entries of one sample at the same column add up and count once.
        lr: the learning rate :math:`\alpha`.
        mode: ``adabatch``, ``mean`` or ``sum``.
        ridge: :math:`\lambda`: of :math:`\lambda w`, each touching sample has its share, so that
            the mode ``mean`` has :math:`\lambda w` as its expectation.
        probabilities: p, the probability that a sample touches the coordinate, ``[features]`` in
            the type of sums, in (0, 1] for coordinates that are touched; needed with ``ridge``.
        offset: c, ``[features]`` in the type of sums, added to the term of every touching sample;
            SVRG's mean gradient over p.
        state_sum: AdaGrad's accumulator v, shaped like ``param`` and updated in place:
            :math:`v_j \leftarrow v_j + d_j^2`, :math:`w_j \leftarrow w_j - \alpha\, d_j /
            (\sqrt{v_j} + \epsilon)`, of touched coordinates.
        eps: :math:`\epsilon`.

    The type of sums is float64 for float64, and else float32.

    Returns:
        :math:`\lVert d \rVert^2` (0-dimensional, float64).

    Raises:
        ValueError: where devices, dtypes or sizes differ, row starts do not ascend, a column is
            none of ``param``, a touched coordinate has no probability, tensors overlap, or what is
            written requires grad outside no_grad; where a number is not finite, or ``ridge`` or
            ``eps`` negative. Nothing has been written then.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import CsrRows, sparse_mean_step_
        >>> grads = torch.tensor([[1.0, 4.0, 0.0], [0.0, 2.0, 0.0]])
        >>> param = torch.zeros(3)
        >>> sparse_mean_step_(param, grads, lr=1)
        tensor(10., dtype=torch.float64)
        >>> param
        tensor([-1., -3.,  0.])
        >>> rows = CsrRows(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), grads[grads != 0])
        >>> _ = sparse_mean_step_(param, rows, lr=1, mode="mean")
        >>> param
        tensor([-1.5000, -6.0000,  0.0000])
    """
    crow, col, values = (
        per_sample_grads
        if isinstance(per_sample_grads, CsrRows)
        else (None, None, per_sample_grads)
    )
    arguments = (
        param, crow, col, values, float(lr), mode, ridge, probabilities, offset, state_sum, eps,
    )  # fmt: skip
    norm: Tensor
    norm = _operator(*arguments) if torch.compiler.is_compiling() else _run(*arguments)
    return norm


def _run(
    param: Tensor,
    crow_indices: Tensor | None,
    col_indices: Tensor | None,
    values: Tensor,
    lr: float,
    aggregate: str,
    ridge: float,
    probabilities: Tensor | None,
    offset: Tensor | None,
    state_sum: Tensor | None,
    eps: float,
) -> Tensor:
    if aggregate not in MODES:
        raise ValueError(f"mode is {aggregate!r}; accepted are {', '.join(MODES)}")
    # A negative rate adds the aggregate, which is then read off the parameter.
    check_step_numbers(lr=abs(lr), eps=eps, ridge=ridge)
    written = {"param": param} | ({} if state_sum is None else {"state_sum": state_sum})
    check_updated(tuple(written), tuple(written.values()))
    if not param.is_contiguous():
        raise ValueError(f"param has strides {param.stride()}; it must be contiguous")
    _check_values(param, values)
    features = param.numel()
    if crow_indices is None or col_indices is None:
        _check_dense(values, features)
    else:
        check_csr(crow_indices, col_indices, values)
    if ridge and probabilities is None:
        raise ValueError(f"ridge is {ridge}, which needs probabilities; pass one for each feature")
    for name, tensor in (("probabilities", probabilities), ("offset", offset)):
        if tensor is not None:
            _check_per_feature(name, tensor, param)
    if ridge and probabilities is not None:
        if crow_indices is not None and col_indices is not None:
            check_csr_indices(crow_indices, col_indices, values, features)
        _check_probabilities(probabilities, col_indices, values)
    read = (
        ("crow_indices", crow_indices), ("col_indices", col_indices), ("per_sample_grads", values),
        ("probabilities", probabilities), ("offset", offset),
    )  # fmt: skip
    for name, tensor in written.items():
        for other_name, other in read:
            if other is not None:
                require_disjoint(name, tensor, other_name, other)
    if state_sum is not None:
        require_disjoint("param", param, "state_sum", state_sum)
    backend = backends.select(param.device, param.dtype, "sparse_mean_step_")
    # Backends refuse rows and columns that are none, with check_csr_indices.
    norm: Tensor = backend.sparse_mean_step_(
        param,
        crow_indices,
        col_indices,
        values,
        lr,
        aggregate,
        ridge,
        probabilities if ridge else None,
        offset,
        state_sum,
        eps,
    )
    return norm


def _check_values(param: Tensor, values: Tensor) -> None:
    name = "per_sample_grads"
    require_plain(name, values)
    require_dtype(name, values)
    require_no_graph(name, values)
    for what in ("device", "dtype"):
        if getattr(values, what) != getattr(param, what):
            raise ValueError(
                f"{name} has {what} {getattr(values, what)}, but param has {getattr(param, what)}; "
                "they must agree"
            )


def _check_dense(grads: Tensor, features: int) -> None:
    if grads.dim() != 2 or grads.shape[1] != features:
        raise ValueError(
            f"per_sample_grads has shape {tuple(grads.shape)}, and param has {features} elements; "
            f"accepted are [samples, {features}] and CsrRows"
        )
    if len(grads) > _MOST_DENSE_SAMPLES:
        raise ValueError(
            f"per_sample_grads has {len(grads)} samples; accepted are up to "
            f"{_MOST_DENSE_SAMPLES}, and more as CsrRows"
        )


def _check_per_feature(name: str, tensor: Tensor, param: Tensor) -> None:
    require_plain(name, tensor)
    given = (tuple(tensor.shape), tensor.dtype, tensor.device)
    accepted = ((param.numel(),), ACCUMULATION_DTYPES[param.dtype], param.device)
    if given != accepted:
        raise ValueError(
            f"{name} is {given[0]} in {given[1]} on {given[2]}; accepted is {accepted[0]} in "
            f"{accepted[1]} on {accepted[2]}, the features and the type of sums of param"
        )


def _check_probabilities(probabilities: Tensor, col_indices: Tensor | None, values: Tensor) -> None:
    """Whoever touches a coordinate shows that its probability is not zero."""
    if col_indices is not None:
        touched = probabilities[col_indices.long()]
    else:
        touched = probabilities[values.ne(0).any(0)]
    wrong = ~((touched > 0) & (touched <= 1))
    if wrong.any():
        raise ValueError(
            f"probabilities has {float(touched[wrong][0]):g} for a coordinate that a sample "
            "touches; accepted are numbers above 0 and up to 1"
        )


def _fake(
    param: Tensor,
    crow_indices: Tensor | None,
    col_indices: Tensor | None,
    values: Tensor,
    lr: float,
    aggregate: str,
    ridge: float,
    probabilities: Tensor | None,
    offset: Tensor | None,
    state_sum: Tensor | None,
    eps: float,
) -> Tensor:
    return sq_norm(param.device)


# Not "mode": torch passes one of its own to whoever traces the op.
_operator = register(
    "sparse_mean_step_(Tensor(a!) param, Tensor? crow_indices, Tensor? col_indices, "
    "Tensor values, float lr, str aggregate, float ridge, Tensor? probabilities, Tensor? offset, "
    "Tensor(b!)? state_sum, float eps) -> Tensor",
    _run,
    _fake,
)
