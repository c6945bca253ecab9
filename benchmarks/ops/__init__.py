"""Every op: a file of pytest-benchmark each, its goals, and what one would write in plain torch."""
