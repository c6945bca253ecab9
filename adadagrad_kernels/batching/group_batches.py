"""A batch size for every parameter group: each steps when it has seen enough samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from adadagrad_kernels.batching.controller import BatchController
from adadagrad_kernels.batching.controller_state import load_all
from adadagrad_kernels.settings import require_equal, require_int, require_keys
from adadagrad_kernels.statistics import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm

#: What a criterion may read that is not known of a group over several backward passes.
_WHOLE_RECORDS = ("needs_inner_products", "needs_variance", "layerwise", "matrixwise")


@dataclass
class _Pending:
    """What a group has seen since its last step.

    Attributes:
        samples: how many.
        sq_norms: the sum of their squared norms; NaN where a backward pass was not measured.
        loss: the sum of their losses; NaN where one was not given.
        sums: of each parameter the sum of their gradients, or None.
    """

    samples: int = 0
    sq_norms: float = 0.0
    loss: float = 0.0
    sums: list[Tensor | None] = field(default_factory=list)


class GroupBatches:
    r"""Lets every parameter group of an optimizer step at a batch size of its own.

    After each backward pass of m samples, ``collect`` adds the gradients of every group to what
    it has seen since its last step. A group is due once that is at least its controller's
    ``batch_size``: its ``.grad`` is then the mean over all n of its samples,

    .. math:: \bar g = \frac{1}{n} \sum_t m_t \bar g_t,

    each at the parameters of its own pass, and the controller decides on their norms about the
    group's next size. The ``.grad`` of the others is None, so that ``optimizer.step()`` leaves
    them alone, their state too. A group that is due in every pass keeps its ``.grad`` bit for bit.
    With sizes that are multiples of m (``round_to=m``) a group steps every k-th pass.

    Sums are kept in float32 or wider, only of groups that wait. Schedulers that count samples
    (``SamplesLR``) take the m of every pass; ``BatchSizeLR.update(groups.batch_sizes)`` gives each
    group the gain of its own size.

    Args:
        optimizer: whose ``param_groups`` are the groups; one with the key ``"name"`` has that name,
            others are ``"group 0"`` and so on.
        controllers: one for each, of norms, losses or a schedule.

    Raises:
        ValueError: for another number of controllers, one that is given twice, a name that is, and
            criteria that read inner products, coordinates, single parameters or matrices.

    Example:
        >>> import torch
        >>> import adadagrad_kernels as adk
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        >>> groups = [{"params": layer.parameters()} for layer in model]
        >>> optimizer = torch.optim.SGD(groups, lr=0.1)
        >>> sizes = [adk.BatchController(None, batch_size=b, max_batch_size=b) for b in (8, 16)]
        >>> batches = adk.GroupBatches(optimizer, sizes)
        >>> with adk.layer_statistics(model, groups=batches.groups) as recorder:
        ...     for _ in range(2):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(8, 3)).square().mean().backward()
        ...         print(batches.collect(recorder.statistics()))
        ...         optimizer.step()
        ['group 0']
        ['group 0', 'group 1']
    """

    def __init__(self, optimizer: Optimizer, controllers: Sequence[BatchController]) -> None:
        self.optimizer: Optimizer = optimizer
        self.controllers: list[BatchController] = list(controllers)
        groups = optimizer.param_groups
        if len(self.controllers) != len(groups):
            raise ValueError(
                f"the optimizer has {len(groups)} parameter groups, got "
                f"{len(self.controllers)} controllers; pass one for each, in their order"
            )
        if len({id(each) for each in self.controllers}) != len(groups):
            raise ValueError(
                "a controller was given twice, and would count the samples of two groups; make one "
                "for each"
            )
        self.names: list[str] = [
            str(group.get("name", f"group {place}")) for place, group in enumerate(groups)
        ]
        if len(set(self.names)) != len(groups):
            raise ValueError(
                f"parameter groups have the names {self.names}; accepted are names that differ"
            )
        for name, controller in zip(self.names, self.controllers, strict=True):
            reads = [a for a in _WHOLE_RECORDS if getattr(controller.criterion, a, False)]
            if reads or controller.error_bars is not None:
                raise ValueError(
                    f"the controller of {name} reads more than norms "
                    f"({', '.join(reads) or 'error_bars'}), which is not known of a group over "
                    "several backward passes; accepted are criteria of norms, such as NormTest and "
                    "GradientNoiseScale, and schedules"
                )
        self._pending = [_Pending() for _ in groups]

    @property
    def groups(self) -> dict[str, list[Tensor]]:
        """The parameters of every group by its name, for ``layer_statistics(groups=...)``."""
        groups = self.optimizer.param_groups
        return {n: list(g["params"]) for n, g in zip(self.names, groups, strict=True)}

    @property
    def batch_sizes(self) -> list[int]:
        """The samples that each group steps on, in the order of the optimizer."""
        return [controller.batch_size for controller in self.controllers]

    def wants_test(self) -> bool:
        """Whether a controller will use the norms of its next step.

        All passes of that step must be measured.
        """
        return any(controller.wants_test() for controller in self.controllers)

    @torch.no_grad()
    def collect(
        self,
        statistics: GradientStatistics | None,
        samples: int | None = None,
        *,
        loss: float | Tensor | None = None,
    ) -> list[str]:
        """Take the gradients of a backward pass, and give the groups that are due their mean.

        Call it between the backward pass and ``optimizer.step()``, with gradients that are unscaled
        and not clipped. Clip afterwards: only groups that are due have gradients then.

        Args:
            statistics: of this pass, with ``by_group``; None where it was not measured.
            samples: of this pass, where there are no statistics.
            loss: their mean loss, for controllers that read it.

        Returns:
            The names of the groups that are due.

        Raises:
            MissingStatisticError: for statistics without ``by_group``, or that a criterion lacks.
            ValueError: for statistics of other groups or that are not finite, no gradient at all,
                or neither statistics nor samples; no group has changed then.
        """
        samples, measured = self._samples(statistics, samples)
        if all(p.grad is None for members in self.groups.values() for p in members):
            raise ValueError(
                "no parameter has a gradient; call collect() after the backward pass, in every pass"
            )
        value = math.nan if loss is None else float(loss)
        found: list[tuple[_Pending, list[Tensor | None] | None]] = []
        for place, (name, members) in enumerate(self.groups.items()):
            before = self._pending[place]
            norms = math.nan if measured is None else measured[name].sum_sq_norms
            seen = _Pending(
                before.samples + samples, before.sq_norms + norms, before.loss + value * samples
            )
            is_due = seen.samples >= self.batch_sizes[place]
            means: list[Tensor | None] | None = [p.grad for p in members]
            if before.samples or not is_due:
                sums = before.sums or [None] * len(members)
                seen.sums = [_added(p, s, samples) for p, s in zip(members, sums, strict=True)]
                means = None
            if is_due and means is None:
                pairs = zip(members, seen.sums, strict=True)
                means = [None if s is None else (s / seen.samples).to(p.dtype) for p, s in pairs]
            found.append((seen, means))
        for controller, (seen, means) in zip(self.controllers, found, strict=True):
            if means is not None:
                _decide(controller, seen, means, statistics)
        due = []
        for place, (name, members) in enumerate(self.groups.items()):
            seen, means = found[place]
            if means is not None:
                due.append(name)
            self._pending[place] = seen if means is None else _Pending()
            for p, mean in zip(members, means or [None] * len(members), strict=True):
                p.grad = mean
        return due

    def metrics(self) -> dict[str, float]:
        """Those of every controller, with the group's name before theirs."""
        pairs = zip(self.names, self.controllers, strict=True)
        return {f"{name}/{key}": v for name, each in pairs for key, v in each.metrics().items()}

    def state_dict(self) -> dict[str, Any]:
        """The controllers' states, and what each group has seen since its last step, as copies."""
        return {
            "names": list(self.names),
            "controllers": [controller.state_dict() for controller in self.controllers],
            "pending": [
                {
                    "samples": seen.samples,
                    "sq_norms": seen.sq_norms,
                    "loss": seen.loss,
                    "sums": [None if total is None else total.clone() for total in seen.sums],
                }
                for seen in self._pending
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``, bit for bit.

        Raises:
            ValueError: if keys are missing, the groups are others or a controller's state does not
                fit; nothing has changed then.
        """
        require_keys("GroupBatches", state, self.state_dict())
        require_equal("GroupBatches", "names", state["names"], self.names)
        pending = []
        for (name, members), saved in zip(self.groups.items(), state["pending"], strict=True):
            require_keys("GroupBatches", saved, ("samples", "sq_norms", "loss", "sums"))
            shapes = [None if total is None else tuple(total.shape) for total in saved["sums"]]
            here = [tuple(p.shape) for p in members]
            fits = len(shapes) in (0, len(here)) and all(
                shape in (None, own) for shape, own in zip(shapes, here, strict=False)
            )
            if not fits:
                raise ValueError(
                    f"the state of GroupBatches has sums of the shapes {shapes} for {name}, whose "
                    f"parameters have {here}; load the state of a run of the same model"
                )
            pairs = zip(saved["sums"], members, strict=False)
            sums = [None if s is None else s.clone().to(p.device) for s, p in pairs]
            samples = require_int("saved samples", saved["samples"], at_least=0)
            pending.append(_Pending(samples, float(saved["sq_norms"]), float(saved["loss"]), sums))
        load_all(list(zip(self.controllers, state["controllers"], strict=True)))
        self._pending = pending

    def _samples(
        self, statistics: GradientStatistics | None, samples: int | None
    ) -> tuple[int, dict[str, GradientStatistics] | None]:
        """Those of a backward pass, and the norms of the groups where it was measured."""
        if statistics is None:
            if samples is None:
                raise ValueError(
                    "got no statistics, since the pass was not measured, and no samples; pass "
                    "collect(None, samples)"
                )
            return require_int("samples", samples, at_least=1), None
        measured = statistics.require_by_group()
        if set(measured) != set(self.names):
            raise ValueError(
                f"the statistics are of the groups {sorted(measured)}, and the optimizer has "
                f"{sorted(self.names)}; measure with layer_statistics(model, groups=this.groups)"
            )
        if not statistics.is_finite:
            raise ValueError(
                "the statistics are not finite, and would stay in the sums of every group that "
                "waits. Way out: leave this pass out, with optimizer.zero_grad() in place of "
                "collect()"
            )
        if samples not in (None, statistics.batch_size):
            raise ValueError(
                f"samples is {samples}, and the statistics are of {statistics.batch_size}; leave "
                "samples out"
            )
        return statistics.batch_size, measured


def _added(parameter: Tensor, before: Tensor | None, samples: int) -> Tensor | None:
    """A sum of gradients with that of some more samples, in float32 or wider."""
    if parameter.grad is None:
        return before
    grad = parameter.grad.detach()
    own = grad.to(torch.promote_types(grad.dtype, torch.float32)) * samples
    return own if before is None else before + own


def _decide(
    controller: BatchController,
    seen: _Pending,
    means: list[Tensor | None],
    statistics: GradientStatistics | None,
) -> None:
    """Count a group's step, and decide where all of its passes were measured, the last as this."""
    loss = None if math.isnan(seen.loss) else seen.loss / seen.samples
    if math.isnan(seen.sq_norms):
        controller.step(seen.samples, loss=loss)
        return
    mean = {str(place): grad for place, grad in enumerate(means) if grad is not None}
    controller.update(
        GradientStatistics(
            batch_size=seen.samples,
            mean_sq_norm=squared_norm(mean.values()).item(),
            sum_sq_norms=seen.sq_norms,
            mean_gradient=mean,
            loss=loss,
            agreement=None if statistics is None else statistics.agreement,
        )
    )
