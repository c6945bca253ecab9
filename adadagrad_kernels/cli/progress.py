"""What a run prints on stderr: the progress bar, and warnings above it."""

from __future__ import annotations

import logging
import sys
from typing import Any

# From the widest to the narrowest: the first that fits is shown, and nothing is cut.
_LAYOUTS = (
    "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
    "{percentage:3.0f}% of {total_fmt} [{remaining}{postfix}]",
    "{percentage:3.0f}% of {total_fmt} [{remaining}]",
    "{percentage:3.0f}%",
)


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

        class Bar(tqdm):  # type: ignore[misc]
            @staticmethod
            def format_meter(
                n: float, total: float, elapsed: float, ncols: int | None = None, **options: Any
            ) -> str:
                del options["bar_format"]
                text = ""
                for layout in _LAYOUTS:
                    text = tqdm.format_meter(n, total, elapsed, None, bar_format=layout, **options)
                    if ncols is None or len(text) <= ncols:
                        # Once more, for a bar that fills the line.
                        text = tqdm.format_meter(
                            n, total, elapsed, ncols, bar_format=layout, **options
                        )
                        break
                return text

        self._bar = Bar(
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


class WarningLog(logging.Handler):
    """What the package logs, such as findings in training, as warnings beside the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one."""
        warn(record.getMessage())


def warn(text: str) -> None:
    """Prints a warning to stderr, above the bar if there is one."""
    message = f"adadagrad-kernels: warning: {text}"
    loaded = sys.modules.get("tqdm")
    if loaded is None:
        print(message, file=sys.stderr, flush=True)
    else:
        loaded.tqdm.write(message, file=sys.stderr)
