"""Makes the ladder importable, and what the tests of the ops share."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]

# At the end, so that the package under test is the installed one and not the sources.
for folder in (_ROOT, _ROOT / "python_tests"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
