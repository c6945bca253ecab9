"""What every rank of a world runs: trl's SFTTrainer, and its stop at a checkpoint."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from hf_cases import Stop, folder, world
from sft_cases import run

from adadagrad_kernels.integrations.huggingface import causal_lm_loss

#: Of the first step.
RATE = 0.5


def _weights(trainer: Any) -> torch.Tensor:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained() -> dict[str, Any]:
    """In float64, so that another order of sums shows in the last digits alone."""
    world()
    settings: dict[str, Any] = {"ddp_backend": "gloo", "optim": "sgd", "learning_rate": RATE}
    more: dict[str, Any] = {"compute_loss_func": causal_lm_loss, "dtype": torch.float64}
    found = run(out=folder(), settings=settings, **more)
    lines = [line for line in found["history"] if "batch/used" in line]
    return {
        "weights": _weights(found["trainer"]),
        "sizes": [int(line["batch/used"]) for line in lines],
        "rates": [line["learning_rate"] for line in lines],
    }


def again() -> dict[str, Any]:
    """With dropout, and a loss of the logits that the layers see."""
    world()
    out = folder()
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "ddp_backend": "gloo"}
    more: dict[str, Any] = {"compute_loss_func": causal_lm_loss, "dropout": 0.1}
    whole = run(out=folder(), settings=settings, **more)
    stopped = run(out=out, settings=settings, callbacks=[Stop(5)], **more)
    dist.barrier()  # the first rank has saved
    resumed = run(out=out, settings=settings, resume=f"{out}/checkpoint-3", **more)
    sizes = [[int(line["batch/used"]) for line in each["history"] if "batch/used" in line]
             for each in (whole, stopped, resumed)]  # fmt: skip
    return {
        "sizes": sizes,
        "weights": [_weights(each["trainer"]) for each in (whole, resumed)],
        "seen": [each["history"][-2]["samples_seen"] for each in (whole, resumed)],
        "kinds": Counter(type(each["trainer"]).__name__ for each in (whole, resumed)),
    }


CASES = [trained, again]
