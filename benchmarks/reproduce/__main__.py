"""All experiments, and the page of their figures: ``python benchmarks/reproduce --help``."""

import sys
from importlib import import_module
from pathlib import Path

# The folder above comes first while `benchmarks` is found: Opacus installs another one. It has the
# sources of the package too, which must not hide the installed one, so it does not stay there.
ROOT = str(Path(__file__).resolve().parents[2])
sys.path.insert(0, ROOT)
import_module("benchmarks")
sys.path.remove(ROOT)

if __name__ == "__main__":
    sys.exit(import_module("benchmarks.reproduce.papers").main())
