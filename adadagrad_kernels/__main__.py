"""`python -m adadagrad_kernels`: the same as the command `adadagrad-kernels`."""

from __future__ import annotations

import sys

from adadagrad_kernels.cli import main

if __name__ == "__main__":
    sys.exit(main())
