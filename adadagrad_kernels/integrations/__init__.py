"""Adapters for trainers of other libraries: import the one you need, none is imported here.

``huggingface.AdaptiveTrainer``, ``accelerate.adaptive_steps``, ``fabric.adaptive_steps``,
``lightning.AdaptiveBatch``. ``doctor`` looks at a trainer, a loader or their parts for traps.
"""

from adadagrad_kernels.integrations.checkup import Finding, doctor

__all__ = ["Finding", "doctor"]
