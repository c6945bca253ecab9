"""The runs that are forecast: one model and optimizer, the batch sized in four ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adadagrad_kernels.training.config import RunConfig

#: Of the batch in each; a small one, a large one, one that is scheduled and one that is tested.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "batch 32": {"test": "none", "batch_size": 32, "max_batch": 32},
    "batch 256": {"test": "none", "batch_size": 256, "max_batch": 256},
    "doubling": {"test": "none", "schedule": "step:{fifth}", "batch_size": 16, "max_batch": 256},
    "norm test": {
        "test": "norm", "eta": 1.0, "growth_cap": 1.1, "test_interval": 4,
        "batch_size": 16, "max_batch": 256,
    },
}  # fmt: skip
#: The one that is probed, for steps with its test.
TESTED = "norm test"
#: Sizes of the probe: a rank's share of the smallest batch, to the largest batch.
SIZES = (8, 16, 32, 64, 128, 256)


#: As `--model` of train has them: the paper's CNN, whose steps last milliseconds, and a wider one.
MODELS: Mapping[str, str] = {"cnn": "cnn", "wide": "benchmarks.planned.models:wide_cnn"}


def config(way: str, samples: int, model: str = "wide") -> RunConfig:
    """The run of a way: a CNN on scikit-learn's digits, AdaGrad on this package's kernels."""
    settings = dict(WAYS[way])
    if "schedule" in settings:
        settings["schedule"] = settings["schedule"].format(fifth=samples // 5)
    return RunConfig(
        data="digits",
        model=MODELS[model],
        optimizer="adagrad",
        lr=0.02,
        samples=samples,
        evaluate_every=samples // 20,
        log_every=samples,
        **settings,
    )
