"""Lightning: a callback with which a Trainer grows its batch by the noise of the gradient."""

from adadagrad_kernels.optional import require

require("lightning.pytorch", "AdaptiveBatch", extra="lightning")

from adadagrad_kernels.integrations.lightning.callback import AdaptiveBatch  # noqa: E402

__all__ = ["AdaptiveBatch"]
