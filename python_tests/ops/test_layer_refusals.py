"""Bad input of linear_moments and conv_moments: a ValueError that says what was given, and what is
accepted. Checks come before a backend is picked, so they run once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import ops


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def _linear(inputs: Any = None, grads: Any = None, **asked: Any) -> Any:
    inputs = _ones(4, 3, 5) if inputs is None else inputs
    grads = _ones(4, 3, 2) if grads is None else grads
    return ops.linear_moments(inputs, grads, **asked)


def _conv(inputs: Any = None, grads: Any = None, kernel: Any = (3, 3), **settings: Any) -> Any:
    inputs = _ones(4, 2, 6, 6) if inputs is None else inputs
    grads = _ones(4, 4, 4, 4) if grads is None else grads
    return ops.conv_moments(inputs, grads, kernel, **settings)


# What no kernel can read, whatever the argument.
UNREADABLE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a list": (lambda t: t.tolist(), r"must be a torch\.Tensor, got list"),
    "a meta tensor": (lambda t: t.to("meta"), "has no storage.*device meta"),
    "sparse": (lambda t: t.to_sparse(), r"layout torch\.sparse_coo; accepted is torch\.strided"),
    "integers": (lambda t: t.long(), r"dtype torch\.int64; accepted are torch\.float32"),
    "a lazy negation": (torch._neg_view, "lazy .* negation; pass .*resolve_neg"),
}


@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("argument", ["inputs", "grads"])
@pytest.mark.parametrize("call", [_linear, _conv])
def test_refuses_what_no_kernel_can_read(call: Any, argument: str, what: str) -> None:
    change, message = UNREADABLE[what]
    valid = {
        (_linear, "inputs"): (4, 3, 5),
        (_linear, "grads"): (4, 3, 2),
        (_conv, "inputs"): (4, 2, 6, 6),
        (_conv, "grads"): (4, 4, 4, 4),
    }
    name = {"inputs": "inputs", "grads": "grad_outputs"}[argument]
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        call(**{argument: change(_ones(*valid[call, argument]))})


ROWS: dict[str, tuple[Callable[[], Any], str]] = {
    # Both
    "dtypes": (lambda: _linear(_ones(4, 3, 5).double()), "float64, but grad_outputs has .*float32"),
    "dtypes of conv": (lambda: _conv(_ones(4, 2, 6, 6).half()), "float16, but grad_outputs has"),
    "samples": (lambda: _conv(_ones(3, 2, 6, 6)), r"\(3, 2, 6, 6\).*with the same samples"),
    "no samples": (lambda: _linear(_ones(0, 3, 5), _ones(0, 3, 2)), "at least one sample"),
    "1-D": (lambda: _linear(_ones(4), _ones(4)), r"\[samples, \.\.\., features\].*shape \(4,\)"),
    "variance of one": (
        lambda: _linear(_ones(1, 5), _ones(1, 2), variance=True),
        "at least two samples.*variance=False",
    ),
    # linear_moments
    "positions": (
        lambda: _linear(grads=_ones(4, 2, 2)),
        r"\(4, 3, 5\) and grad_outputs \(4, 2, 2\); all dimensions but the last",
    ),
    "dimensions": (lambda: _linear(grads=_ones(4, 2)), "all dimensions but the last must agree"),
    # conv_moments
    "spatial dimensions": (
        lambda: _conv(_ones(4, 2, 6), _ones(4, 4, 4)),
        r"kernel_size \(3, 3\) asks for tensors \[samples, channels, \*spatial\] with 2",
    ),
    "four spatial dimensions": (
        lambda: _conv(_ones(4, 2, 3, 3, 3, 3), _ones(4, 2, 3, 3, 3, 3), (1, 1, 1, 1)),
        "with 4 of 1 to 3 spatial dimensions",
    ),
    "no kernel": (lambda: _conv(kernel=()), "with 0 of 1 to 3 spatial dimensions"),
    "an empty kernel": (lambda: _conv(kernel=(3, 0)), r"kernel_size must be at least 1.*\(3, 0\)"),
    "stride of zero": (lambda: _conv(stride=0), r"stride must be 2 numbers .*1, got \(0, 0\)"),
    "three strides": (lambda: _conv(stride=(1, 1, 1)), r"stride must be 2 numbers.*\(1, 1, 1\)"),
    "negative padding": (lambda: _conv(padding=-1), r"padding must be 2 numbers of at least 0"),
    "dilation of zero": (lambda: _conv(dilation=0), "dilation must be 2 numbers of at least 1"),
    "groups of inputs": (lambda: _conv(groups=3), "groups must divide the channels.*got 3"),
    "groups of outputs": (
        lambda: _conv(grads=_ones(4, 3, 4, 4), groups=2),
        r"groups must divide the channels of .*\(4, 3, 4, 4\), got 2",
    ),
    "no groups": (lambda: _conv(groups=0), "groups must divide the channels.*got 0"),
    "size of outputs": (
        lambda: _conv(grads=_ones(4, 4, 5, 4)),
        r"outputs \(4, 4\) in space, but grad_outputs is \(4, 4, 5, 4\)",
    ),
    "kernel beyond the image": (
        lambda: _conv(kernel=(7, 7)),
        r"kernel_size \(7, 7\).* has outputs \(0, 0\) in space",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ROWS)
def test_refuses_with_what_was_given_and_what_is_accepted(what: str) -> None:
    call, message = ROWS[what]
    with pytest.raises(ValueError, match=message):
        call()


def test_reads_tensors_that_require_grad() -> None:
    """They are saved tensors of a graph, as often as not."""
    moments = _linear(_ones(4, 3, 5).requires_grad_(), _ones(4, 3, 2))
    assert not moments.weight_grad.requires_grad
    assert not _conv(_ones(4, 2, 6, 6).requires_grad_()).weight_grad.requires_grad
