"""Layers in which a sample has no gradient of its own, or none that vmap can compute."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from adadagrad_kernels.errors import UnsupportedModelError


def require_per_sample_gradients(model: nn.Module, *, by_layers: bool = False) -> None:
    """Refuse models whose samples influence one another.

    Args:
        model: the module in training.
        by_layers: whether the model runs as it is instead of sample by sample under vmap, which
            takes neither sparse gradients nor running statistics.

    Raises:
        UnsupportedModelError: naming the layer and the ways out.
    """
    for path, module in model.named_modules():
        problem = _problem(module, by_layers)
        if problem:
            where = f"layer '{path}'" if path else "the model"
            raise UnsupportedModelError(f"{where} ({type(module).__name__}) {problem}")


def _problem(module: nn.Module, by_layers: bool) -> str | None:
    if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
        way_out = (
            "call .eval() on the layer to freeze its statistics"
            if module.track_running_stats
            else "let it track running statistics and freeze them with .eval()"
        )
        return (
            "normalises each sample by the whole batch, so a sample has no gradient of its own. "
            f"Ways out: replace it with GroupNorm; {way_out}; or estimate the variance from "
            "micro-batches with MicroBatchGradients"
        )
    tracks = isinstance(module, _InstanceNorm) and module.track_running_stats
    if tracks and module.training and not by_layers:
        return (
            "updates running statistics in place, which vmap cannot do. Ways out: "
            "track_running_stats=False; call .eval() on the layer; or measure with layer_statistics"
        )
    tables = nn.Embedding | nn.EmbeddingBag
    if isinstance(module, tables) and module.scale_grad_by_freq:
        return (
            "scales the gradient of a row by how often it occurs in the whole batch, so a sample "
            "has no gradient of its own. Ways out: scale_grad_by_freq=False; or estimate the "
            "variance from micro-batches with MicroBatchGradients"
        )
    if isinstance(module, tables) and module.sparse and not by_layers:
        return (
            "has sparse gradients, which vmap cannot stack. Ways out: sparse=False; or estimate "
            "the variance from micro-batches with MicroBatchGradients"
        )
    return None
