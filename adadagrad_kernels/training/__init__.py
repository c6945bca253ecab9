"""The training core: what a run is made of, as tables, and the loop that runs it."""
