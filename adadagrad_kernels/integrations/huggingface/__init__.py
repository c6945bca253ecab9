"""Hugging Face's Trainer, and trl's trainers on top of it, with a batch that grows."""

from adadagrad_kernels.integrations.huggingface.losses import causal_lm_loss
from adadagrad_kernels.integrations.huggingface.trainer import AdaptiveMixin, AdaptiveTrainer

__all__ = ["AdaptiveMixin", "AdaptiveTrainer", "causal_lm_loss"]
