"""Statistics measured by the layers themselves, in the backward pass of the model in training.

``layer_statistics`` is what users call. Below it: ``attachment`` puts ``rules`` (and ``attention``
and ``unknown``) in the place of the layers' forwards; each call makes a use (``uses``,
``products``, ``rows``, ``other``), which a ``tap`` in the graph brings its gradient; the
``recorder`` sorts uses into micro-batches (``micro_batch``), and ``step`` makes the record.
"""
