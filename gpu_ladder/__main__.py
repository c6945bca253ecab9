"""``python -m gpu_ladder``."""

import sys

from gpu_ladder.check.command import main

if __name__ == "__main__":
    sys.exit(main())
