"""What all kinds of layers share while a step is measured.

``step`` has the micro-batches of the step that runs. In its forward passes layers call the
``recorder``: each call makes a use (``uses``), which a node or hook in the graph (``graph_node``)
brings its gradient, and the ``backward_pass`` has it measured. ``micro_batch`` keeps what was
measured, and ``record_of_step`` makes the record of it; over several ranks, ``pooled_step``.
``independence`` asks the model what its rows are: it runs ``trial`` calls that leave all
``as_before``, from which ``rows`` and ``mixing`` judge; ``comparison`` holds what was measured
against ``one_sample`` by itself. ``arrivals``, ``samples`` and ``verify`` refuse what would be
another number.
"""
