"""The numbers by which the compiled modules know element types: ElementType in csrc/kernels.h."""

from __future__ import annotations

import torch

TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
