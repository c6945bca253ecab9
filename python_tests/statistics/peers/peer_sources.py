"""What other libraries find for the samples of a batch, in one form.

Each function takes a model, its inputs and the weights of a loss (``sample_loss``), and runs the
peer on a copy. All statistics are those of the samples' own losses: a peer that scales them, as
BackPACK does with the 1/b of a mean, is scaled back here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Parts = dict[str, Tensor]


@dataclass
class Found:
    """What a peer has to say; None where it does not."""

    sq_norms: Tensor | None = None
    sum_of_squares: Parts | None = None
    variance: Parts | None = None
    mean: Parts | None = None
    inner_products: Tensor | None = None


Peer = Callable[..., Found]


def sample_losses(output: Tensor, weights: Tensor) -> Tensor:
    """A loss for each sample that weighs every element of its output by itself."""
    return (output.tanh() * weights).flatten(1).sum(1)


def trainable(model: nn.Module) -> Parts:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def from_rows(rows: Parts) -> Found:
    """Everything, by definition, from each sample's gradient."""
    flat = torch.cat([part.detach().flatten(1) for part in rows.values()], 1).double()
    parts = {name: part.detach().double() for name, part in rows.items()}
    return Found(
        flat.square().sum(1),
        {name: part.square().sum(0) for name, part in parts.items()},
        {name: part.var(0) for name, part in parts.items()},
        {name: part.mean(0) for name, part in parts.items()},
        flat @ flat.mean(0),
    )


def vmap(model: nn.Module, inputs: Tensor, weights: Tensor) -> Found:
    """``torch.func.vmap`` of ``torch.func.grad``."""
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}

    def loss(parameters: Parts, sample: Tensor, weight: Tensor) -> Tensor:
        output = torch.func.functional_call(model, (parameters, frozen), (sample.unsqueeze(0),))
        return sample_losses(output, weight.unsqueeze(0)).sum()

    gradient = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    return from_rows(gradient(trainable(model), inputs, weights))


def expanded_weights(model: nn.Module, inputs: Tensor, weights: Tensor) -> Found:
    """``call_for_per_sample_grads`` of torch."""
    from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

    model = copy.deepcopy(model)
    called = call_for_per_sample_grads(model, loss_reduction="mean")
    sample_losses(called(inputs), weights).mean().backward()
    return from_rows({name: p.grad_sample for name, p in trainable(model).items()})


def opacus(model: nn.Module, inputs: Tensor, weights: Tensor, batch_first: bool = True) -> Found:
    """``GradSampleModule`` of Opacus: each layer's own rule, or functorch."""
    from opacus.grad_sample import GradSampleModule

    model = copy.deepcopy(model)
    wrapped = GradSampleModule(model, batch_first=batch_first, loss_reduction="mean")
    sample_losses(wrapped(inputs), weights).mean().backward()
    return from_rows({name: p.grad_sample for name, p in trainable(model).items()})


def opacus_ghost(
    model: nn.Module, inputs: Tensor, weights: Tensor, batch_first: bool = True
) -> Found:
    """Ghost clipping of Opacus: norms alone."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        copy.deepcopy(model),
        batch_first=batch_first,
        loss_reduction="mean",
        use_ghost_clipping=True,
    )
    sample_losses(wrapped(inputs), weights).mean().backward()
    return Found(wrapped.get_norm_sample().double().square())


def _backpack(model: nn.Module, inputs: Tensor, weights: Tensor, *names: str) -> nn.Module:
    """A copy of the model whose parameters have what BackPACK's extensions of these names give."""
    from backpack import backpack, extend, extensions

    model = copy.deepcopy(model)
    for module in model.modules():
        if not list(module.children()):
            extend(module)
    with backpack(*(getattr(extensions, name)() for name in names)):
        sample_losses(model(inputs), weights).mean().backward()
    return model


def backpack_norms(model: nn.Module, inputs: Tensor, weights: Tensor) -> Found:
    """``BatchL2Grad`` of BackPACK, whose samples are 1/b of ours."""
    model = _backpack(model, inputs, weights, "BatchL2Grad")
    norms = torch.stack([p.batch_l2 for p in trainable(model).values()]).double()
    return Found(norms.sum(0) * len(inputs) ** 2)


def backpack_squares(model: nn.Module, inputs: Tensor, weights: Tensor) -> Found:
    """``SumGradSquared`` and ``Variance`` of BackPACK, the latter over b where ours is over b-1."""
    model, b = _backpack(model, inputs, weights, "SumGradSquared", "Variance"), len(inputs)
    squares = {n: p.sum_grad_squared.double() * b**2 for n, p in trainable(model).items()}
    variance = {n: p.variance.double() * b**2 * b / (b - 1) for n, p in trainable(model).items()}
    return Found(sum_of_squares=squares, variance=variance)


TORCH: dict[str, Peer] = {"vmap": vmap, "ExpandedWeights": expanded_weights}
OPACUS: dict[str, Peer] = {"Opacus": opacus, "Opacus ghost": opacus_ghost}
BACKPACK: dict[str, Peer] = {"BackPACK norms": backpack_norms, "BackPACK squares": backpack_squares}
PEERS = TORCH | OPACUS | BACKPACK
