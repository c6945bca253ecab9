"""Small steps, on one thread."""

from __future__ import annotations

from support.one_thread import one_thread_for_the_module  # noqa: F401 - a fixture of every test here
