"""``python -m gpu_ladder.static``."""

import sys

from gpu_ladder.static.report import main

if __name__ == "__main__":
    sys.exit(main())
