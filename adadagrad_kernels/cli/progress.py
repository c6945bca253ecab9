"""What a run says on stderr: the progress bar, and warnings beside it."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """A bar in samples with the batch size beside it, on a terminal where tqdm is installed.

    Args:
        label: What the bar is for.
        total: Samples in all.
        done: Samples done already, as after a resume.
        quiet: Never show a bar.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, quiet: bool = False) -> None:
        self._bar: Any = None
        if quiet or not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm
        except ImportError:
            return
        self._bar = tqdm(
            desc=label,
            total=total,
            initial=done,
            unit=" samples",
            unit_scale=True,
            dynamic_ncols=True,
        )

    def advance(self, samples: int, batch_size: int, loss: float) -> None:
        """Counts the samples of a step."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"batch {batch_size:,}, loss {loss:.3f}", refresh=False)
            self._bar.update(samples)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def warn(text: str) -> None:
    """Prints a warning to stderr, above the bar if there is one."""
    message = f"adadagrad-kernels: warning: {text}"
    loaded = sys.modules.get("tqdm")
    if loaded is None:
        print(message, file=sys.stderr, flush=True)
    else:
        loaded.tqdm.write(message, file=sys.stderr)
