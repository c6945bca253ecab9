"""All experiments, and the page of their figures: ``python benchmarks/reproduce --help``."""

import sys

from papers import main

if __name__ == "__main__":
    sys.exit(main())
