"""Tests and measures the kernels on a GPU: ``python benchmarks/gpu_report.py --help``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # Others install a package of the name `benchmarks`: the folder above comes first while ours is
    # found. It has the sources of the package too, and what is measured is the one that was built.
    root = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, root)
    importlib.import_module("benchmarks")
    sys.path.remove(root)
    sys.exit(importlib.import_module("benchmarks.gpu.command").main())
