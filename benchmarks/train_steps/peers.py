"""Other ways to the statistics of a training step, each at the best setting that we know of.

Every peer runs the whole step: gradients cleared, forward, backward, statistics; ``.grad`` is there
afterwards. Opacus and BackPACK take part where they are installed. Peers that make the gradients
of all samples are left out where these take more than ``MOST_BYTES``, chunks or not: the MLP's take
12 GB, and vmap 90 times as long as a plain step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads

from adadagrad_kernels.statistics import GradientStatistics, PerSampleGradients
from benchmarks.train_steps.models import Case, Training, mean_loss
from benchmarks.train_steps.steps import NORMS, PRODUCTS, VARIANCE, Maker, Measured

MOST_BYTES = 2 << 30

PeerStep = Callable[[], "Measured | GradientStatistics"]


def peers(case: Case, quantity: str) -> dict[str, Maker]:
    """By name, makers of the steps that give ``quantity`` for ``case`` and its twin."""
    if case.chunk == 0:
        return {}
    with torch.device("meta"):
        model = case.model()
    whole = case.samples * sum(4 * p.numel() for p in model.parameters()) <= MOST_BYTES
    opacus, backpack = (find_spec(name) is not None for name in ("opacus", "backpack"))
    makers: dict[str, Callable[[Training], PeerStep]] = {}
    if whole:
        makers["vmap(grad) in chunks"] = lambda training: _vmap(training, case.chunk, quantity)
    if whole and quantity == PRODUCTS:
        makers["PerSampleGradients"] = _per_sample_gradients
    if whole and quantity != PRODUCTS:
        makers["ExpandedWeights"] = lambda training: _expanded_weights(training, quantity)
        if opacus:
            makers["Opacus GradSampleModule"] = lambda training: _quiet(_opacus(training, quantity))
    if quantity == NORMS and opacus:
        makers["Opacus ghost norms"] = lambda training: _quiet(_opacus_ghost(training))
    # Without a rule for the norms of LayerNorm BackPACK would leave them out.
    if quantity != PRODUCTS and backpack and isinstance(model, nn.Sequential):
        makers["BackPACK"] = lambda training: _quiet(_backpack(training, quantity))

    def made(maker: Callable[[Training], PeerStep], case: Case) -> tuple[Training, PeerStep]:
        training = case.build()
        return training, maker(training)

    return {name: partial(made, maker) for name, maker in makers.items()}


def _vmap(training: Training, chunk: int, quantity: str) -> PeerStep:
    """Some samples' gradients at a time; again, for their products with the mean."""
    model, inputs, targets, _ = training
    names = [name for name, _ in model.named_parameters()]

    def loss(parameters: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        output = functional_call(model, parameters, (sample[None],))
        return mean_loss(output, target[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))

    def step() -> Measured:
        training.zero_grad()
        detached = {name: p.detach() for name, p in model.named_parameters()}
        chunks = list(zip(inputs.split(chunk), targets.split(chunk), strict=True))
        means = {name: torch.zeros_like(p) for name, p in detached.items()}
        sums = {name: torch.zeros_like(p) for name, p in detached.items()}
        norms = []
        for sample, target in chunks:
            rows = gradients(detached, sample, target)
            squares = {name: row.square() for name, row in rows.items()}
            norms.append(_row_sums(squares))
            for name in names:
                means[name] += rows[name].sum(0).div_(len(inputs))
                if quantity == VARIANCE:
                    sums[name] += squares[name].sum(0)
        for name, parameter in model.named_parameters():
            parameter.grad = means[name]
        products = None
        if quantity == PRODUCTS:
            products = torch.cat(
                [_row_products(gradients(detached, *pair), means) for pair in chunks]
            )
        return Measured(torch.cat(norms), sums if quantity == VARIANCE else None, products)

    return step


def _per_sample_gradients(training: Training) -> PeerStep:
    """This package's own, where the layers are not measured."""
    source = PerSampleGradients(training.model, mean_loss, inner_products=True)

    def step() -> GradientStatistics:
        training.zero_grad()
        return source.backward(training.inputs, training.targets)

    return step


def _expanded_weights(training: Training, quantity: str) -> PeerStep:
    model, inputs, targets, _ = training

    def step() -> Measured:
        for parameter in model.parameters():
            parameter.grad, parameter.grad_sample = None, None
        measured = call_for_per_sample_grads(
            model, batch_size=len(inputs), loss_reduction="mean", batch_first=True
        )
        mean_loss(measured(inputs), targets).backward()
        rows = {name: p.grad_sample for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.grad = rows[name].mean(0)
        return _from_rows(rows, quantity)

    return step


def _opacus(training: Training, quantity: str) -> PeerStep:
    from opacus.grad_sample import GradSampleModule

    model, inputs, targets, _ = training
    wrapped = GradSampleModule(model, loss_reduction="mean")

    def step() -> Measured:
        training.zero_grad()
        for parameter in model.parameters():
            parameter.grad_sample = None
        mean_loss(wrapped(inputs), targets).backward()
        return _from_rows({name: p.grad_sample for name, p in model.named_parameters()}, quantity)

    return step


def _opacus_ghost(training: Training) -> PeerStep:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        training.model, loss_reduction="mean", use_ghost_clipping=True
    )

    def step() -> Measured:
        training.zero_grad()
        mean_loss(wrapped(training.inputs), training.targets).backward()
        return Measured(wrapped.get_norm_sample().square())

    return step


def _backpack(training: Training, quantity: str) -> PeerStep:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad, SumGradSquared

    model, inputs, targets, _ = training
    layers = [layer for layer in model.modules() if not list(layer.children())]
    for layer in layers:
        extend(layer)
    extensions = (BatchL2Grad, SumGradSquared) if quantity == VARIANCE else (BatchL2Grad,)
    # Those are of the samples' shares in the mean loss.
    scale = len(inputs) ** 2

    def step() -> Measured:
        training.zero_grad()
        with backpack(*(extension() for extension in extensions)):
            mean_loss(model(inputs), targets).backward()
        norms = torch.stack([p.batch_l2 for p in model.parameters()]).sum(0).mul_(scale)
        sums = None
        if quantity == VARIANCE:
            sums = {n: p.sum_grad_squared.mul_(scale) for n, p in model.named_parameters()}
        return Measured(norms, sums)

    return step


def _quiet(step: PeerStep) -> PeerStep:
    """Without torch's remark that the first layer's inputs have no gradient, which is as meant."""

    def quiet() -> Measured | GradientStatistics:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            return step()

    return quiet


def _from_rows(rows: dict[str, Tensor], quantity: str) -> Measured:
    """What a careful user makes of all samples' gradients."""
    squares = {name: row.square() for name, row in rows.items()}
    sums = None
    if quantity == VARIANCE:
        sums = {name: square.sum(0) for name, square in squares.items()}
    return Measured(_row_sums(squares), sums)


def _row_sums(rows: dict[str, Tensor]) -> Tensor:
    return torch.stack([row.flatten(1).sum(1) for row in rows.values()]).sum(0)


def _row_products(rows: dict[str, Tensor], means: dict[str, Tensor]) -> Tensor:
    products = [row.flatten(1) @ means[name].flatten() for name, row in rows.items()]
    return torch.stack(products).sum(0)
