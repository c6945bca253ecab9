"""The command line: `adadagrad-kernels COMMAND`, a module for each command."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

from adadagrad_kernels.backends import check_environment
from adadagrad_kernels.cli.arguments import build_parser
from adadagrad_kernels.cli.errors import Interrupted, StoppedError
from adadagrad_kernels.cli.progress import WarningLog
from adadagrad_kernels.errors import (
    BackendUnavailableError,
    CheckpointError,
    MissingDependencyError,
)
from adadagrad_kernels.training.errors import UsageError

__all__ = ["main"]

# Anything else is a fault of the program, and its traceback is wanted.
_EXPECTED = (
    BackendUnavailableError,
    CheckpointError,
    MemoryError,
    MissingDependencyError,
    OSError,
    StoppedError,
    ValueError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Without the program's name; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 error or a finding of the doctor, 2 wrong usage, 130 interrupted;
        errors are explained in one line on stderr. 141 where nobody reads the output to its end.
    """
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has stopped reading. Python itself flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: Sequence[str] | None) -> int:
    options = build_parser().parse_args(arguments)
    log = WarningLog(logging.WARNING)
    logger = logging.getLogger("adadagrad_kernels")
    logger.addHandler(log)
    try:
        check_environment()
        # Each command's module has the command's name; only the one that is needed is imported.
        module = options.command.replace("-", "_")
        command = importlib.import_module(f"{__name__}.{module}")
        exit_code: int = command.run(options)
    except BrokenPipeError:
        raise
    except UsageError as error:
        return _explain(2, f"error: {error}")
    except _EXPECTED as error:
        return _explain(1, f"error: {error}")
    except Interrupted as stop:
        return _explain(stop.exit_code, str(stop))
    except KeyboardInterrupt:
        return _explain(130, "interrupted")
    finally:
        logger.removeHandler(log)
    return exit_code


def _explain(exit_code: int, text: str) -> int:
    print(f"adadagrad-kernels: {' '.join(text.split())}", file=sys.stderr)
    return exit_code
