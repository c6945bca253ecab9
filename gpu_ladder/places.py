"""Where the ladder's own files lie, and where it keeps what it builds."""

from __future__ import annotations

import os
from pathlib import Path

#: The folder of this package.
PACKAGE = Path(__file__).resolve().parent


#: Whether it is a clone's: the package is made of this file, and does not hold it.
IN_CLONE = (PACKAGE / "pyproject.toml").is_file()


def build_folder() -> Path:
    """``build/gpu_ladder`` of a clone; once installed, ``gpu_ladder`` in the user's caches.

    Those are in ``XDG_CACHE_HOME``, or else in ``~/.cache``.
    """
    if IN_CLONE:
        return PACKAGE.parent / "build" / "gpu_ladder"
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "gpu_ladder"
