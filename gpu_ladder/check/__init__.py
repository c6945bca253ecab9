"""Checks a kernel of anyone's: ``python -m gpu_ladder check``, and how a launch is described to it.

Example:
    >>> import numpy as np
    >>> from gpu_ladder.check import Launch, Output
    >>> def launches():
    ...     x = np.arange(1000, dtype=np.float32)
    ...     arguments = {"n": 1000, "a": 2.0, "x": x, "y": Output(1000, np.float32)}
    ...     yield Launch("scale", grid=8, block=128, arguments=arguments, expected={"y": 2 * x})
"""

from gpu_ladder.check.launches import Launch, Output

__all__ = ["Launch", "Output"]
