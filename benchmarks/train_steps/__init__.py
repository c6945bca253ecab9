"""Whole training steps: models, their steps with and without statistics, goals, and other ways."""
