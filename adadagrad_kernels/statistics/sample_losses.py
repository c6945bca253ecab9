"""The losses of single samples as functions of the parameters, and their derivatives."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, jvp, vmap

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.memory import is_out_of_memory
from adadagrad_kernels.statistics.contents import Contents
from adadagrad_kernels.statistics.measuring.as_before import as_before
from adadagrad_kernels.statistics.randomness import RandomState
from adadagrad_kernels.statistics.samples import Chunk, Samples, concatenated_chunks
from adadagrad_kernels.statistics.sums import row_dots

#: Samples whose gradients are compared.
_FEW = 4
_NO_MEAN = (
    "it is a sum, weights classes, leaves targets out, compares samples or reads parameters, so "
    "training would follow another gradient than that of loss.backward(). Ways out: a mean over "
    "the samples, such as reduction='none' and .mean(); or layer_statistics, which takes any loss"
)

_FULL_PRECISION = (torch.float32, torch.float64)


class SampleLosses:
    """Differentiates ``loss_fn(model(inputs[i:i+1]), targets[i:i+1])`` for many samples at once.

    Called under ``torch.no_grad``: torch.func keeps its own graph.

    Attributes:
        forward_mode: whether ``directional_derivatives`` tries a JVP.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[Any, Any], Tensor]) -> None:
        self.forward_mode: bool = True
        self._model = model
        self._loss_fn = loss_fn
        vectorize = partial(vmap, in_dims=(None, 0, None), randomness="different")
        self._losses: Callable[..., Any] = vectorize(self._loss)
        with_outputs = grad_and_value(self._loss_and_outputs, has_aux=True)
        self._gradients: Callable[..., Any] = vectorize(with_outputs)
        # Makes what the model gave of other tensors; those of a trace are not kept, nor its graph.
        self._rebuild: Callable[[Sequence[Any]], Any] = tuple
        self._alone: Chunk | None = None
        self._compared: set[Any] = set()

    def gradients(
        self, parameters: dict[str, Tensor], chunk: list[Tensor], samples: Samples
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradients ``[samples, *shape]`` by parameter name, and losses ``[samples]``, of a chunk.

        Raises:
            UnsupportedModelError: for what ``torch.func`` cannot run for many samples at once.
            ValueError: for a loss that is not a scalar, or not the mean of the samples' own.
        """
        try:
            gradients, (losses, outputs) = self._gradients(parameters, chunk, samples)
        except (RuntimeError, ValueError) as error:
            self._explain(error, chunk, samples)
            raise
        self._require_mean(losses, outputs, chunk, samples)
        self._require_same_gradient(parameters, chunk, samples)
        return gradients, losses

    def _require_same_gradient(
        self, parameters: dict[str, Tensor], chunk: list[Tensor], samples: Samples
    ) -> None:
        """Compare a plain gradient of a few samples with the mean of their own, once per form.

        Two losses may have the same value and different gradients, and a loss may read parameters.
        """
        form = (self._model.training, *((t.shape[1:], t.dtype) for t in chunk))
        few = [tensor[:_FEW] for tensor in chunk]
        if form in self._compared or len(few[0]) == 1:
            return
        self._compared.add(form)
        for as_it_is in (True, False):
            with as_before(self._model):
                if not as_it_is:
                    self._model.eval()  # without dropout
                pairs = self._both_gradients(parameters, few, samples)
            if pairs is not None:
                break
        else:
            warnings.warn(
                "the loss draws random numbers, so its gradient for a few samples together could "
                "not be compared with the mean of their own; use a loss that draws none, or "
                "check that it is a mean over the samples",
                UserWarning,
                stacklevel=4,
            )
            return
        kinds = {whole.dtype for whole, _ in pairs}
        allowed = _allowed(kinds, few[0].device, (1e-6, 1e-3, 5e-2))
        error = sum(float((own.mean(0) - whole).double().square().sum()) for whole, own in pairs)
        scale = sum(float(own.double().square().sum()) / len(own) for _, own in pairs)
        if not error <= allowed**2 * scale and math.isfinite(scale):
            raise ValueError(
                f"the gradient of the loss of {len(few[0])} samples together differs from the mean "
                f"of their own by {(error / scale) ** 0.5 if scale else math.inf:.2g} of these: "
                f"{_NO_MEAN}"
            )

    def _both_gradients(
        self, parameters: dict[str, Tensor], few: list[Tensor], samples: Samples
    ) -> list[tuple[Tensor, Tensor]] | None:
        """Plain and per-sample gradients by parameter; None if the loss draws random numbers."""
        state = RandomState(few[0].device)
        named = {n: p for n, p in self._model.named_parameters() if n in parameters}
        inputs, targets = samples.restore(few)
        with torch.enable_grad():
            loss = self._loss_fn(self._model(inputs), targets)
            if state.has_changed():
                return None
            found: Any = [None] * len(named)
            if loss.requires_grad:
                found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        own, _ = self._gradients(parameters, few, samples)
        return [
            (torch.zeros_like(own[name][0]) if whole is None else whole, own[name])
            for name, whole in zip(named, found, strict=True)
        ]

    def _require_mean(
        self, losses: Tensor, outputs: list[Tensor], chunk: list[Tensor], samples: Samples
    ) -> None:
        """Refuse a loss whose value for several samples is not the mean of their own."""
        if any(t.dim() < 2 or t.shape[1] != 1 for t in outputs):
            return  # the model gives the loss itself
        outputs = [tensor.detach() for tensor in outputs]
        if len(losses) == 1:
            # Of chunks of one sample each, two are put together.
            before, self._alone = self._alone, (losses, outputs, chunk)
            both = before and concatenated_chunks(before, self._alone)
            if both is None:
                return
            losses, outputs, chunk = both
        state = RandomState(losses.device)
        together = self._rebuild([t.flatten(0, 1) for t in outputs])
        whole = self._loss_fn(together, samples.restore(chunk)[1])
        if state.has_changed():
            state.restore()
            return
        own = losses.double()
        # One wait for a device.
        value, mean, scale = torch.stack([whole.double(), own.mean(), own.abs().mean()]).tolist()
        kinds = {t.dtype for t in (losses, *outputs) if t.is_floating_point()}
        allowed = _allowed(kinds, own.device, (1e-9, 1e-4, 2e-2))
        close = abs(value - mean) <= allowed * max(scale, abs(value))
        # A sample whose targets are all left out has no loss of its own.
        if not close and (math.isfinite(mean) or math.isfinite(value)):
            raise ValueError(
                f"loss_fn gives {value:.6g} for {len(losses)} samples together, and their "
                f"own losses have the mean {mean:.6g}: {_NO_MEAN}"
            )

    def _explain(self, error: Exception, chunk: list[Tensor], samples: Samples) -> None:
        """Raise an error that the user can act on, where torch's own is not one.

        Raises:
            UnsupportedModelError: where the model runs, but not for single samples at once.
            Exception: the model's own, where it does not run at all.
        """
        if isinstance(error, UnsupportedModelError) or is_out_of_memory(error):
            return
        inputs, targets = samples.restore(chunk)
        with as_before(self._model):
            loss = self._loss_fn(self._model(inputs), targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            return
        raise UnsupportedModelError(
            f"{type(self._model).__name__} or its loss cannot be run for single samples by "
            f"torch.func.vmap: {error}. Ways out: layer_statistics, which runs the model as it is; "
            "or MicroBatchGradients"
        ) from error

    def directional_derivatives(
        self,
        parameters: dict[str, Tensor],
        chunks: Sequence[list[Tensor]],
        samples: Samples,
        direction: Mapping[str, Tensor],
    ) -> Tensor:
        """<g_i, direction> of every sample, float64 ``[samples]``.

        Takes one JVP per chunk if ``forward_mode`` holds and the precision is full; in low
        precision a JVP would round away what distinguishes the samples. Otherwise, or if the JVP
        fails, per-sample gradients are computed again.
        """
        device = samples.tensors[0].device
        precise = all(p.dtype in _FULL_PRECISION for p in parameters.values())
        if self.forward_mode and precise and not torch.is_autocast_enabled(device.type):
            random_state = RandomState(device)
            tangents = {name: direction[name].to(p.dtype) for name, p in parameters.items()}
            _load_forward_mode()
            try:
                return torch.cat([self._jvp(parameters, c, samples, tangents) for c in chunks])
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                # A layer without a forward-mode derivative. Other errors recur below.
                self.forward_mode = False
                random_state.restore()
        return torch.cat(
            [self._derivatives_from_gradients(parameters, c, samples, direction) for c in chunks]
        )

    def weighted_gradient(
        self,
        parameters: dict[str, Tensor],
        chunks: Sequence[list[Tensor]],
        samples: Samples,
        weights: Tensor,
    ) -> dict[str, Tensor]:
        """The sum of all samples' gradients, each times its weight, ``[samples]``."""
        total: dict[str, Tensor] = {}
        start = 0
        for chunk in chunks:
            gradients, _ = self._gradients(parameters, chunk, samples)
            own = weights[start : start + len(chunk[0])]
            start += len(own)
            for name in list(gradients):
                gradient = gradients.pop(name)
                wide = torch.promote_types(gradient.dtype, torch.float32)
                part = torch.tensordot(own.to(gradient.device, wide), gradient.to(wide), 1)
                total[name] = part if name not in total else total[name] + part
        return total

    def not_reached(self, parameters: Mapping[str, Tensor], samples: Samples) -> set[str]:
        """The parameters that the loss does not reach, whose ``.grad`` backward leaves alone.

        Their gradients are zero, but so may others be; one sample's backward pass tells.
        """
        inputs, targets = samples.restore([tensor[:1] for tensor in samples.tensors])
        with as_before(self._model), torch.enable_grad():
            loss = self._loss_fn(self._model(inputs), targets)
            if not loss.requires_grad:
                return set(parameters)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        return {name for name, gradient in pairs if gradient is None}

    def _loss(self, parameters: dict[str, Tensor], tensors: list[Tensor], batch: Samples) -> Tensor:
        """The loss of one sample, as a batch of one."""
        return self._loss_and_outputs(parameters, tensors, batch)[0]

    def _loss_and_outputs(
        self, parameters: dict[str, Tensor], tensors: list[Tensor], batch: Samples
    ) -> tuple[Tensor, list[Tensor]]:
        """The same, and the tensors that the model gave."""
        inputs, targets = batch.restore([tensor.unsqueeze(0) for tensor in tensors])
        outputs = functional_call(self._model, parameters, (inputs,))
        contents = Contents.of(outputs)
        self._rebuild = contents.replaced
        loss = self._loss_fn(outputs, targets)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss)
            raise ValueError(
                f"loss_fn must return the mean over the samples as a scalar tensor, got {given}; "
                "use reduction='mean'"
            )
        return loss, contents.tensors

    def _jvp(
        self,
        parameters: dict[str, Tensor],
        chunk: list[Tensor],
        samples: Samples,
        tangents: dict[str, Tensor],
    ) -> Tensor:
        def losses(values: dict[str, Tensor]) -> Any:
            return self._losses(values, chunk, samples)

        derivatives: Tensor = jvp(losses, (parameters,), (tangents,))[1]
        return derivatives.double()

    def _derivatives_from_gradients(
        self,
        parameters: dict[str, Tensor],
        chunk: list[Tensor],
        samples: Samples,
        direction: Mapping[str, Tensor],
    ) -> Tensor:
        gradients, (losses, _) = self._gradients(parameters, chunk, samples)
        derivatives = torch.zeros(len(losses), dtype=torch.float64, device=losses.device)
        for name, along in direction.items():
            rows = gradients.pop(name).reshape(len(losses), along.numel())
            derivatives += row_dots(rows, along.reshape(-1))
        return derivatives


def _allowed(
    kinds: set[torch.dtype], device: torch.device, errors: tuple[float, float, float]
) -> float:
    """The error that counts as rounding in float64, with float32, and in narrower types."""
    if not kinds <= set(_FULL_PRECISION) or torch.is_autocast_enabled(device.type):
        return errors[2]
    return errors[0] if kinds == {torch.float64} else errors[1]


@cache
def _load_forward_mode() -> None:
    """Let torch script its formulas on its first use of forward mode, without the warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.neg, (torch.zeros((), device="cpu"),), (torch.zeros((), device="cpu"),))
