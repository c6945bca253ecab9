"""``python -m gpu_ladder.static``."""

import sys

from gpu_ladder.static.report import main

sys.exit(main())
