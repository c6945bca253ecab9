"""A GPT of megatron-core with a batch that grows, as docs/guide/trainers.md says; on every rank.

Its layers need no accelerator but for the core of attention, which is ours here.
"""

from __future__ import annotations

import contextlib
import warnings
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import megatron.core.num_microbatches_calculator as calculators
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

import adadagrad_kernels as adk

MICRO, LENGTH, WORDS, TEXTS, BUDGET, RATE = 2, 8, 32, 60, 160, 0.3


class Attention(nn.Module):
    """Causal attention of ``[positions, samples, heads, features]``: Megatron's own wants CUDA."""

    def __init__(self, config: Any, **_: Any) -> None:
        super().__init__()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any) -> Tensor:
        heads = [tensor.permute(1, 2, 0, 3) for tensor in (query, key, value)]
        attended = scaled_dot_product_attention(*heads, is_causal=True)
        return attended.permute(2, 0, 1, 3).flatten(2)


class Grown(calculators.NumMicroBatchesCalculator):
    """The recipe's."""

    def __init__(self, controller: adk.BatchController, micro_batch_size: int, data_ranks: int):
        super().__init__()
        self.controller, self.micro_batch_size = controller, micro_batch_size
        self.unit = micro_batch_size * data_ranks
        self.update(0, False)

    def update(self, consumed_samples: int, consistency_check: bool, verbose: bool = False) -> None:
        size = self.controller.batch_size
        self.current_global_batch_size = self.current_running_global_batch_size = size
        self.num_micro_batches = size // self.unit


@cache
def _world() -> int:
    parallel_state.initialize_model_parallel(1, 1)
    return dist.get_world_size()


def gpt() -> GPTModel:
    _world()
    spec = get_gpt_layer_local_spec()
    spec.submodules.self_attention.submodules.core_attention = Attention
    off = ("bias_dropout_fusion", "masked_softmax_fusion", "gradient_accumulation_fusion")
    config = TransformerConfig(
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        use_cpu_initialization=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        **dict.fromkeys(off, False),
    )
    torch.manual_seed(0)
    return GPTModel(config, spec, vocab_size=WORDS, max_sequence_length=LENGTH)


def texts() -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(WORDS, (TEXTS, LENGTH + 1), generator=generator)


def loss(model: nn.Module, rows: Tensor) -> Tensor:
    """The mean over samples and positions."""
    places = torch.arange(LENGTH).expand(len(rows), LENGTH)
    words, following = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    losses: Tensor = model(words, places, None, labels=following)
    return losses.mean()


def trained() -> dict[str, Any]:
    """Until the budget is used up; what each step measured, and what autograd says of it."""
    data_ranks, rank = _world(), dist.get_rank()
    unit = MICRO * data_ranks
    controller = adk.BatchController(
        adk.NormTest(eta=0.6),
        batch_size=4 * unit,
        max_batch_size=48,
        round_to=unit,
        growth_cap=1.5,
    )
    calculators._GLOBAL_NUM_MICROBATCHES_CALCULATOR = Grown(controller, MICRO, data_ranks)
    # A micro-batch of each rank after another, those of all ranks here.
    whole = {"rank": 0, "world_size": 1}
    draws = iter(adk.AdaptiveBatchSampler(TEXTS, unit, seed=5, total_samples=BUDGET, **whole))
    model, alone, rows = gpt(), gpt(), texts()
    wrapped = DistributedDataParallel(model) if data_ranks > 1 else model
    source = adk.MicroBatchGradients(wrapped)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    found: dict[str, Any] = {"sizes": [], "ours": [], "direct": []}
    while controller.samples_seen + controller.batch_size <= BUDGET:
        calculators.update_num_microbatches(controller.samples_seen, consistency_check=False)
        parts = [next(draws) for _ in range(calculators.get_num_microbatches())]
        alone.load_state_dict(model.state_dict())
        all_parts = [rows[part[other::data_ranks]] for part in parts for other in range(data_ranks)]
        found["direct"].append(_direct(alone, all_parts))
        optimizer.zero_grad()
        for place, part in enumerate(parts):
            own = rows[part[rank::data_ranks]]
            waits = data_ranks > 1 and place + 1 < len(parts)
            with wrapped.no_sync() if waits else contextlib.nullcontext():
                value = loss(wrapped, own) / len(parts)
                with source.micro_batch(samples=len(own)):
                    value.backward()
        record = source.result()
        optimizer.step()
        found["ours"].append((record.batch_size, record.mean_sq_norm, record.variance_norm))
        found["sizes"].append(controller.batch_size)
        controller.update(record)
    found["weights"] = torch.cat([p.detach().flatten() for p in model.parameters()])
    return found


def _direct(model: nn.Module, parts: list[Tensor]) -> tuple[int, float, float]:
    """Samples, squared norm of the mean, and the estimate of the variance, from each gradient."""
    rows = []
    for part in parts:
        model.zero_grad()
        loss(model, part).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]).double())
    gradients = torch.stack(rows)
    mean = gradients.mean(0)
    spread = (gradients - mean).square().sum() * MICRO / (len(parts) - 1)
    return MICRO * len(parts), float(mean.square().sum()), float(spread)


def measured_by_layers() -> list[str]:
    """With as many samples as positions too, where no shape shows which is which."""
    return [_said(samples) for samples in (6, LENGTH)]


def _said(samples: int) -> str:
    model = gpt()
    try:
        with adk.layer_statistics(model, ranks="local") as recorder:
            loss(model, texts()[:samples]).backward()
            recorder.statistics()
    except ValueError as error:
        return str(error)
    return "no error"


CASES = [trained, measured_by_layers]
