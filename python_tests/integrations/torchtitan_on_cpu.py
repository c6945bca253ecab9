"""torchtitan without an accelerator: import this before any of its modules.

It asks torch for one and takes CUDA where there is none.
"""

from __future__ import annotations

import torch
from torchtitan.tools import utils as tools


def _prepare() -> None:
    tools.device_type = "cpu"
    tools.device_module = torch.cpu

    from torchtitan.components import metrics
    from torchtitan.distributed import utils
    from torchtitan.models.common.embedding import Embedding

    class NoMemory:
        """Its log shows the memory of an accelerator."""

        device_name = "cpu"

        def get_peak_stats(self) -> metrics.DeviceMemStats:
            return metrics.DeviceMemStats(*[0.0] * len(metrics.DeviceMemStats._fields))

        def reset_peak_stats(self) -> None:
            pass

    metrics.build_device_memory_monitor = NoMemory
    # By a barrier of devices, which gloo has not.
    utils.set_pg_timeouts = lambda **_: None
    # As it runs without tensor parallel; the guide has this line.
    Embedding.forward = torch.nn.Embedding.forward


_prepare()
