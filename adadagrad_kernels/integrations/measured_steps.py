"""The steps of a model, measured for a controller that decides by their statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType

from torch import Tensor, nn

from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.shared_errors import shared_errors
from adadagrad_kernels.statistics import (
    GradientStatistics,
    MicroBatchGradients,
    layer_statistics,
)

#: Where statistics come from, and the fewest micro-batches that a batch is cut into for it.
SOURCES = {"layers": 1, "micro_batches": 4}


class MeasuredSteps:
    """Measures a step where its controller wants that, and counts it.

    Args:
        model: in training, in the wrapper that reduces its gradients.
        controller: decides on the sizes; nothing is measured for a schedule or a fixed size.
        source: ``"layers"`` for ``layer_statistics``, ``"micro_batches"`` for
            ``MicroBatchGradients``.
        ranks: as for these.
        on_nonfinite: ``"raise"``, on all ranks, or ``"record"``: the controller keeps the size.
        skips: whether the trainer leaves out steps whose gradients are not finite, as one with the
            scaler of float16 does; these are no errors.

    Raises:
        ValueError: for another source, and criteria that it does not measure.
    """

    def __init__(
        self,
        model: nn.Module,
        controller: BatchController,
        source: str,
        ranks: str | Ranks = "auto",
        *,
        on_nonfinite: str = "raise",
        skips: bool = False,
    ) -> None:
        require_source(source, controller)
        require_on_nonfinite(on_nonfinite)
        on_nonfinite = "record" if skips else on_nonfinite
        self.controller = controller
        self._total = 0
        self._layers: layer_statistics | None = None
        self._parts: MicroBatchGradients | None = None
        self._raises = on_nonfinite == "raise"
        self._context: layer_statistics | shared_errors = shared_errors()
        if not controller.reads_statistics:
            return
        if source == "layers":
            criterion = controller.criterion
            self._layers = layer_statistics(
                model,
                inner_products=getattr(criterion, "needs_inner_products", False),
                variance=getattr(criterion, "needs_variance", False),
                when=self._wants_test,
                on_nonfinite=on_nonfinite,
                ranks=ranks,
            )
            self._context = self._layers
        else:
            self._parts = MicroBatchGradients(model, ranks=ranks)

    def __enter__(self) -> MeasuredSteps:
        self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.__exit__(kind, error, traceback)

    @property
    def needs_losses(self) -> bool:
        """Whether ``end`` uses ``losses`` in this step."""
        layers = self._layers
        return layers is not None and layers.inner_products and layers.measures

    def begin(self, total: int) -> None:
        """Begin a step of so many samples over all ranks."""
        self._total = total
        if self._layers is not None:
            self._layers.reset()  # of what an evaluation has run
        if self._parts is not None:
            self._parts.reset()

    def micro_batch(self, samples: int) -> contextlib.AbstractContextManager[None]:
        """A context for forward and backward pass of some samples of this rank."""
        if self._parts is not None and samples and self._wants_test():
            return self._parts.micro_batch(samples)
        return contextlib.nullcontext()

    def end(
        self,
        loss: float | Tensor | None = None,
        *,
        grad_scale: float = 1.0,
        losses: Callable[[], Tensor] | None = None,
    ) -> GradientStatistics | None:
        """Measure and count the step, before its gradients are clipped or unscaled.

        Args:
            loss: mean loss of this rank's samples.
            grad_scale: of mixed precision in float16.
            losses: as for ``layer_statistics``.

        Raises:
            ValueError: if the layers have seen another number of samples.
        """
        statistics: GradientStatistics | None = None
        if self._layers is not None:
            statistics = self._layers.statistics(losses, exact=False, grad_scale=grad_scale)
        elif self._parts is not None and self._wants_test():
            statistics = self._parts.result(grad_scale=grad_scale)
            if self._raises and not statistics.is_finite:
                raise ValueError(
                    "the gradients of the micro-batches of a step, of this rank or of another, are "
                    "not finite; nothing was stepped along them. Ways out: lower the learning "
                    "rate; look at the batch; on_nonfinite='record' goes on with the same size"
                )
        if statistics is not None and statistics.batch_size != self._total:
            raise ValueError(
                f"the layers have seen {statistics.batch_size} samples where {self._total} were "
                "drawn: the first dimension of their inputs is not that of the samples, as where "
                "several are packed into one row. Ways out: one row for each sample (no packing or "
                "padding-free batches); statistics='micro_batches'"
            )
        self.controller.update(statistics, self._total, loss=loss)
        return statistics

    def _wants_test(self) -> bool:
        return self.controller.wants_test(self._total or None)


def require_on_nonfinite(choice: str) -> None:
    """Refuse another word than ``layer_statistics`` takes.

    Raises:
        ValueError: with those that are accepted.
    """
    if choice not in ("raise", "record"):
        raise ValueError(f"on_nonfinite must be one of 'raise', 'record', got {choice!r}")


def require_source(source: str, controller: BatchController) -> None:
    """Refuse what no source measures.

    Raises:
        ValueError: for an unknown source, and a criterion that needs another one.
    """
    if source not in SOURCES:
        accepted = ", ".join(map(repr, SOURCES))
        raise ValueError(f"statistics must be one of {accepted}, got {source!r}")
    criterion = controller.criterion
    for attribute, what in (
        ("needs_inner_products", "inner products"),
        ("needs_variance", "the variance of every coordinate"),
        ("layerwise", "statistics of every parameter"),
    ):
        if source == "micro_batches" and getattr(criterion, attribute, False):
            raise ValueError(
                f"{getattr(criterion, 'name', criterion)} reads {what}, which statistics="
                "'micro_batches' does not measure; use statistics='layers', or another criterion"
            )
