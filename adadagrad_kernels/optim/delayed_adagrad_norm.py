"""AdaGrad-Norm whose step size does not depend on the gradient that it multiplies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from adadagrad_kernels.optim._norm_state import Guarded, guarded


class DelayedAdagradNorm(Optimizer):
    r"""The step of AdaBatchGrad (Ostroukhov et al., arXiv 2402.05264), in the form of Li, Orabona.

    With :math:`g_k` the gradient of all parameters in all groups,

    .. math::
        h_k = \frac{\alpha}{\bigl( \beta + \sum_{i<k} \lVert g_i \rVert^2 \bigr)^{1/2 + \epsilon}},
        \qquad x_{k+1} = x_k - h_k\, g_k,

    where the sum leaves out the current gradient, so :math:`h_k` is a constant given the past
    and the step is unbiased. The defaults are those of a port of their code. A parameter group has
    its own :math:`\alpha`, :math:`\beta` and :math:`\epsilon`, but shares the sum.

    State is kept by parameter, so that parameters may join: ``sum``, the squared norms of its own
    gradients so far, a float64 number. These add up to the sum above. Each step reads the gradients
    once for their norm and once for the update, by ``torch._foreach_*``.

    Args:
        params: parameters, named parameters or parameter groups.
        lr: :math:`\alpha`.
        beta: :math:`\beta`, greater than 0.
        eps: :math:`\epsilon`, from 0 up to 1/2.

    Raises:
        ValueError: for settings out of range.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.optim import DelayedAdagradNorm
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = DelayedAdagradNorm([weight], lr=0.5, beta=4.0)
        >>> (weight @ torch.tensor([4.0, -8.0])).backward()
        >>> optimizer.step()  # 0.5 / sqrt(4)
        >>> weight.data
        tensor([-1.,  2.])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        beta: float = 1.0,
        eps: float = 0.0,
    ) -> None:
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}; accepted are numbers from 0 up")
        if not 0.0 < beta < float("inf"):
            raise ValueError(f"Invalid beta: {beta}; accepted are finite numbers greater than 0")
        if not 0.0 <= eps <= 0.5:
            raise ValueError(f"Invalid epsilon: {eps}; accepted are numbers from 0 to 0.5")
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of DelayedAdagradNorm.

        Raises:
            ValueError: where the parameter groups differ, or for another optimizer's state.
        """
        # torch casts loaded state to the parameter's dtype; the float64 sums must not be.
        handle = self.register_load_state_dict_pre_hook(lambda _, saved: guarded(saved))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        for param, saved in state["state"].items():
            total = saved.get("sum")
            total = total.tensor if isinstance(total, Guarded) else total
            if set(saved) != {"sum"} or not isinstance(total, Tensor) or total.dim():
                raise ValueError(
                    f"a parameter's state has the entries {sorted(saved)}; accepted is the state "
                    "of DelayedAdagradNorm, a single number as sum"
                )
            saved["sum"] = total.to(getattr(param, "device", total.device), torch.float64)
        super().__setstate__(state)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step along the gradients; parameters without one stay as they are.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.

        Raises:
            RuntimeError: for sparse or complex gradients; nothing has moved then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [
            (group, [param for param in group["params"] if param.grad is not None])
            for group in self.param_groups
        ]
        self._require_dense([param for _, params in moving for param in params])
        moving = [(group, params) for group, params in moving if params]
        before = self._sum()
        for group, params in moving:
            grads = [param.grad for param in params]
            sizes = torch._foreach_norm(grads, dtype=torch.float64)
            self._update(group, params, grads, before)
            for param, size in zip(params, sizes, strict=True):
                state = self.state[param]
                state["sum"] = state["sum"] + size * size if state else size * size
        return loss

    def _update(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], before: Tensor
    ) -> None:
        exponent = 0.5 + group["eps"]
        step_size = group["lr"] / (group["beta"] + before) ** exponent
        if params[0].is_cpu:
            torch._foreach_add_(params, grads, alpha=-float(step_size))
        else:  # a number would have to be waited for
            torch._foreach_sub_(params, torch._foreach_mul(grads, step_size.to(params[0].device)))

    def _sum(self) -> Tensor:
        """The sum over all parameters, as a number on the device of the first."""
        sums = [state["sum"] for state in self.state.values() if state]
        if not sums:
            return torch.zeros((), dtype=torch.float64, device="cpu")
        device = sums[0].device
        return torch.stack([s.to(device, non_blocking=not s.is_cpu) for s in sums]).sum()

    @staticmethod
    def _require_dense(params: list[Tensor]) -> None:
        for param in params:
            assert param.grad is not None
            if hasattr(param, "to_local"):
                raise RuntimeError(
                    f"DelayedAdagradNorm got a {type(param).__name__} of shape "
                    f"{tuple(param.shape)}, of which this process has a part, and norms over "
                    "shards are not known here. Ways out: AdagradNorm; plain parameters, as in DDP"
                )
            if param.grad.is_sparse or param.grad.is_complex():
                kind = "sparse" if param.grad.is_sparse else "complex"
                raise RuntimeError(
                    f"DelayedAdagradNorm got a {kind} gradient, of a parameter of shape "
                    f"{tuple(param.shape)}; accepted are dense real ones, such as those of "
                    "Embedding(sparse=False)"
                )
