"""Muon in the training core's loop, AdamW beside it, and the norm test in Muon's geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adadagrad_kernels import MicroBatchGradients, SpectralNormTest, layer_statistics
from adadagrad_kernels.batching import BatchSizeSchedule
from adadagrad_kernels.criteria import BatchSizeCriterion
from adadagrad_kernels.statistics import GradientStatistics
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.loop import Trainer

#: Micro-batches of a step that is measured.
PARTS = 4


def matrices(model: nn.Module) -> list[str]:
    """Those that Muon updates: of hidden layers, which are neither embeddings nor the head."""
    return [name for name, p in model.named_parameters() if "blocks." in name and p.dim() == 2]


class MuonAdamW(Optimizer):
    """torch's Muon for some matrices and AdamW for the other parameters, at one learning rate.

    Muon's steps have the size of AdamW's (``adjust_lr_fn="match_rms_adamw"``). The groups are
    those of the two, so a schedule reaches both; a checkpoint does not.
    """

    def __init__(self, model: nn.Module, *, lr: float, beta2: float, weight_decay: float) -> None:
        named = dict(model.named_parameters())
        hidden = [named.pop(name) for name in matrices(model)]
        parts: list[Optimizer] = [
            torch.optim.Muon(
                hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(named.values(), lr=lr, betas=(0.9, beta2), weight_decay=weight_decay),
        ]
        super().__init__([{"params": part.param_groups[0]["params"]} for part in parts], {})
        self.param_groups = [group for part in parts for group in part.param_groups]
        self._parts = parts

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Both take theirs."""
        assert closure is None, "the core's loop gives none"
        for part in self._parts:
            part.step()


class MuonTrainer(Trainer):
    """The core's loop with Muon.

    Args:
        config: of the run with AdamW in Muon's place and, where ``spectral``, the norm test.
        data: as of any run.
        build: makes the model.
        spectral: whether the test is ``SpectralNormTest``, on the gradients of micro-batches.
    """

    def __init__(
        self, config: RunConfig, data: Data, build: Callable[[], nn.Module], *, spectral: bool
    ) -> None:
        self._spectral = spectral
        super().__init__(config, data, build)
        if spectral:
            self._gradients = MicroBatchGradients(self.model, matrices=matrices(self.model))
            # The layers measure nothing.
            self.source = layer_statistics(self.model, when=lambda: False)

    def _optimizer(self) -> Optimizer:
        config = self.config
        return MuonAdamW(
            self.model, lr=config.lr, beta2=config.beta2, weight_decay=config.weight_decay
        )

    def _policy(self) -> BatchSizeCriterion | BatchSizeSchedule | None:
        if not self._spectral:
            return super()._policy()
        assert self.config.eta is not None, "the configuration has the norm test"
        return SpectralNormTest(self.config.eta)

    def _backward(self, inputs: Tensor, targets: Tensor) -> tuple[float, GradientStatistics | None]:
        if not self._spectral or not self.controller.wants_test():
            return super()._backward(inputs, targets)
        total = 0.0
        for these, theirs in zip(
            inputs.tensor_split(PARTS), targets.tensor_split(PARTS), strict=True
        ):
            with self._gradients.micro_batch(len(theirs)):
                summed = self.data.objective.loss(self.model(these), theirs, reduction="sum")
                loss = summed / len(targets)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total, self._gradients.result()
