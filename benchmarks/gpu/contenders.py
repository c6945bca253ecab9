"""What is timed on a GPU: our ops, what one would write in torch, and a copy of the same bytes.

Everything here is ordinary torch on a device that is given, so that all of it also runs on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from adadagrad_kernels import ops, optim, use_backend
from benchmarks.gpu.counts import Call
from benchmarks.ops import layer_peers, peers

LR = 1e-3
EPS = 1e-10
COPY = "copy of the same bytes"
Calls = dict[str, Call]


@dataclass
class Workbench:
    """Where tensors are made, and which contenders take part.

    Attributes:
        device: a torch device.
        size: bytes of G.
        backends: ours that can run here.
        compiled: whether ``torch.compile`` takes part; it takes seconds for each expression.
    """

    device: str
    size: int
    backends: tuple[str, ...]
    compiled: bool
    _blocks: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def grads(self, rows: int, dtype: torch.dtype, *, aligned: bool = True) -> Tensor:
        """``[rows, features]`` of ``size`` bytes or a little less; one memory for all of a dtype.

        Rows are a multiple of 16 bytes apart, or, where not ``aligned``, an odd number of elements.
        """
        features = self.features(rows, dtype, aligned=aligned)
        return self._block(dtype, rows * features)[: rows * features].view(rows, features)

    def features(self, rows: int, dtype: torch.dtype, *, aligned: bool = True) -> int:
        """How many columns a G of ``rows`` rows has."""
        features = self.size // dtype.itemsize // rows // 64 * 64
        return max(64, features) - (0 if aligned else 63)

    def numbers(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Random numbers from -0.4 to 0.6."""
        return torch.rand(count, device=self.device, dtype=torch.float32).sub_(0.4).to(dtype)

    def copies(self, moved: int) -> Call:
        """A copy within the device that reads half of ``moved`` bytes and writes the other half."""
        half = max(1, moved // 8)
        source, target = torch.empty(2, half, dtype=torch.float32, device=self.device).zero_()
        return partial(target.copy_, source)

    def ours(self, call: Call) -> Iterator[tuple[str, Call]]:
        """``call`` on each of our backends."""
        for backend in self.backends:
            yield backend, partial(on, backend, call)

    def _block(self, dtype: torch.dtype, count: int) -> Tensor:
        block = self._blocks.get(dtype)
        if block is None or block.numel() < count:
            block = self.numbers(max(count, self.size // dtype.itemsize), dtype)
            self._blocks[dtype] = block
        return block


def on(backend: str, call: Call) -> object:
    """The call, on a backend by name."""
    with use_backend(backend):
        return call()


def moments(
    bench: Workbench,
    least_bytes: int,
    rows: int,
    dtype: torch.dtype,
    *,
    variance: bool = True,
    products: bool = True,
    aligned: bool = True,
    beside_torch: bool = False,
) -> Calls:
    """``batch_moments``."""
    grads = bench.grads(rows, dtype, aligned=aligned)
    op = partial(ops.batch_moments, grads, variance=variance, inner_products=products)
    calls = dict(bench.ours(op)) | {COPY: bench.copies(least_bytes)}
    if not beside_torch:
        return calls
    for name in ("plain", "by_matrix_products", "by_elements"):
        calls[f"torch, {name}"] = partial(peers.EAGER[name], grads)
    if bench.compiled:
        for name in ("plain", "by_elements"):
            compiled = torch.compile(peers.EAGER[name], dynamic=False)
            calls[f"torch.compile, {name}"] = partial(compiled, grads)
    return calls


def moments_and_step(bench: Workbench, least_bytes: int, rows: int, dtype: torch.dtype) -> Calls:
    """``batch_adagrad_step_`` with all statistics."""
    grads = bench.grads(rows, dtype)
    param, state_sum = bench.numbers(grads.shape[1], dtype), bench.numbers(grads.shape[1], dtype)
    state_sum.abs_().add_(1)
    calls = dict(bench.ours(partial(ops.batch_adagrad_step_, param, state_sum, grads, lr=LR)))
    calls[COPY] = bench.copies(least_bytes)

    def both(expression: Callable[[Tensor], peers.Moments]) -> None:
        mean = expression(grads)[0]
        peers.step(param, state_sum, mean.to(dtype), LR)

    for name in ("plain", "by_matrix_products"):
        calls[f"torch, {name}"] = partial(both, peers.EAGER[name])
    if bench.compiled:
        calls["torch.compile, plain"] = partial(torch.compile(both, dynamic=False), peers.plain)
    return calls


def layer(
    bench: Workbench,
    least_bytes: int,
    samples: int,
    positions: int,
    features: int,
    dtype: torch.dtype,
) -> Calls:
    """``linear_moments``, beside the gradient alone and beside every contribution at once."""
    shape = (samples, positions, features)
    inputs, grads = (bench.numbers(samples * positions * features, dtype).view(shape)
                     for _ in range(2))  # fmt: skip
    everything = partial(ops.linear_moments, inputs, grads, variance=True, inner_products=True)
    calls: Calls = {}
    for backend in bench.backends:
        calls[backend] = partial(on, backend, everything)
        alone = partial(ops.linear_moments, inputs, grads)
        calls[f"{backend}, gradient and norms"] = partial(on, backend, alone)
    calls[COPY] = bench.copies(least_bytes)
    calls["torch, gradient alone"] = partial(_gradient, inputs, grads)
    if samples * features * features * 4 <= bench.size:
        calls["torch, all contributions"] = partial(layer_peers.by_samples, inputs, grads)
    return calls


def _gradient(inputs: Tensor, grads: Tensor) -> tuple[Tensor, Tensor]:
    rows = grads.flatten(0, 1)
    return rows.T @ inputs.flatten(0, 1), rows.sum(0)


def adagrad(bench: Workbench, least_bytes: int, sizes: list[int], dtype: torch.dtype) -> Calls:
    """``adagrad_step_`` and the optimizers around it and beside it."""
    params = [torch.nn.Parameter(bench.numbers(n, dtype)) for n in sizes]
    for param in params:
        param.grad = bench.numbers(param.numel(), dtype)
    grads, sums = [p.grad for p in params], [torch.ones_like(p) for p in params]
    details = [p.detach() for p in params]
    step = partial(ops.adagrad_step_, details, grads, sums, lr=LR)
    calls = dict(bench.ours(step)) | {COPY: bench.copies(least_bytes)}
    options = {"lr": LR, "initial_accumulator_value": 1.0}
    for name, call in bench.ours(optim.Adagrad(params, **options).step):
        calls[f"our Adagrad, {name}"] = call
    for kind in ("fused", "foreach"):
        calls[f"torch, Adagrad({kind}=True)"] = torch.optim.Adagrad(
            params, **options, **{kind: True}
        ).step
    calls["torch, a tensor at a time"] = partial(_eager_adagrad, details, sums, grads)
    if bench.compiled and len(sizes) == 1:
        compiled = torch.compile(_eager_adagrad, dynamic=False)
        calls["torch.compile"] = partial(compiled, details, sums, grads)
    return calls


def adagrad_norm(bench: Workbench, least_bytes: int, sizes: list[int], dtype: torch.dtype) -> Calls:
    """``adagrad_norm_step_`` with one accumulator."""
    params = [bench.numbers(n, dtype) for n in sizes]
    grads = [bench.numbers(n, dtype) for n in sizes]
    accumulator = torch.ones((), dtype=torch.float64, device=bench.device)
    op = partial(ops.adagrad_norm_step_, params, grads, accumulator, lr=LR)
    calls = dict(bench.ours(op)) | {COPY: bench.copies(least_bytes)}
    calls["torch, foreach"] = partial(_eager_adagrad_norm, params, grads, accumulator)
    if bench.compiled and len(sizes) == 1:
        compiled = torch.compile(_eager_adagrad_norm, dynamic=False)
        calls["torch.compile"] = partial(compiled, params, grads, accumulator)
    return calls


def _eager_adagrad(params: list[Tensor], sums: list[Tensor], grads: list[Tensor]) -> None:
    for param, state_sum, grad in zip(params, sums, grads, strict=True):
        peers.step(param, state_sum, grad, LR)


def _eager_adagrad_norm(params: list[Tensor], grads: list[Tensor], accumulator: Tensor) -> None:
    norms = torch.stack(torch._foreach_norm(grads))
    accumulator.add_(norms.double().square_().sum())
    rate = (LR / (accumulator.sqrt() + EPS)).to(grads[0].dtype)
    torch._foreach_sub_(params, torch._foreach_mul(grads, rate))
