"""The papers' experiments, and the page of their figures: ``python benchmarks/reproduce --help``.

An experiment is a file: a table of runs, and a section that is written from their kept figures
alone. ``plan`` says how a model is trained, ``harness`` trains it by the package's own training
core, ``results`` keeps the figures and ``page`` writes them down.
"""
