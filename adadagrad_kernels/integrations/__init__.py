"""Adapters for trainers of other libraries: import the one you need, none is imported here.

``huggingface.AdaptiveTrainer``, ``accelerate.adaptive_steps``, ``fabric.adaptive_steps``,
``lightning.AdaptiveBatch``.
"""
